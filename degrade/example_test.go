package degrade_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/go-spillway/spillway/degrade"
)

func Example() {
	shed := degrade.MustNew(degrade.Config{
		Priority: func(r *http.Request) degrade.Priority {
			if r.URL.Path == "/checkout" {
				return degrade.Critical
			}
			return degrade.Normal
		},
	})
	sw := degrade.MustNewSwitch(degrade.SwitchConfig{Pressure: []func() float64{shed.Pressure}})
	reviews := sw.Feature("reviews", degrade.Optional)

	mux := http.NewServeMux()
	mux.HandleFunc("/checkout", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%v, reviews: %v", degrade.PriorityOf(r.Context()), reviews.EnabledFor(r.Context()))
	})
	h := shed.Handler(sw.Handler(mux))

	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/checkout", nil))
	fmt.Println(w.Code, w.Body)
	// Output: 200 critical, reviews: true
}

func ExampleNew_invalid() {
	_, err := degrade.New(degrade.Config{Limit: -1, MaxQueue: -5})
	fmt.Println(err)
	// Output:
	// degrade: Config.Limit is -1, must be 0 (adaptive) to 1048576
	// degrade: Config.MaxQueue is -5, must be 0 (default) or more
}

func ExampleShedder_Acquire() {
	shed := degrade.MustNew(degrade.Config{Limit: 1, MaxWait: -1})
	release, err := shed.Acquire(context.Background(), degrade.Critical)
	fmt.Println(err)

	_, err = shed.Acquire(context.Background(), degrade.Normal)
	fmt.Println(errors.Is(err, degrade.ErrRefused))

	release()
	release() // does nothing
	_, err = shed.Acquire(context.Background(), degrade.Normal)
	fmt.Println(err)
	// Output:
	// <nil>
	// true
	// <nil>
}

func ExampleFeature_Handler() {
	sw := degrade.MustNewSwitch(degrade.SwitchConfig{})
	page := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "all reviews") })
	plain := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "no reviews just now") })
	reviews := sw.Feature("reviews", degrade.Optional)
	h := sw.Handler(reviews.Handler(page, plain))

	sw.Set(degrade.Override{Target: "reviews", Author: "ann", Reason: "the database is slow", Expires: time.Now().Add(time.Hour)})
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	fmt.Println(w.Body, "|", w.Header().Get("Spillway-Degraded"), "|", w.Header().Get("Cache-Control"))
	// Output: no reviews just now | reviews | max-age=10
}

func ExampleNewKnob() {
	sw := degrade.MustNewSwitch(degrade.SwitchConfig{})
	sw.Feature("reviews", degrade.Optional)
	pageSize := degrade.NewKnob(sw, 100, 25, 10)
	fmt.Println(pageSize.Get())
	sw.Set(degrade.Override{Target: "level", Level: degrade.Minimal, Author: "ann", Reason: "drill", Drill: true, Expires: time.Now().Add(time.Hour)})
	fmt.Println(pageSize.Get())
	// Output:
	// 100
	// 10
}
