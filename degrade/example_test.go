package degrade_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
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

func ExampleNewSwitch_invalid() {
	_, err := degrade.NewSwitch(degrade.SwitchConfig{Enter: 0.5, Leave: 0.9, LeaveAfter: -time.Second})
	fmt.Println(err)
	// Output:
	// degrade: SwitchConfig.LeaveAfter is -1s, must not be negative
	// degrade: SwitchConfig.Leave is 0.9, must be at most Enter (0.5)
}

func ExampleShedder_Handler() {
	shed := degrade.MustNew(degrade.Config{Limit: 1, MaxWait: -1})
	h := shed.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// While this request runs there is no room for a second one.
		second := httptest.NewRecorder()
		shed.Handler(http.NotFoundHandler()).ServeHTTP(second, r)
		fmt.Println(second.Code, second.Header().Get("Retry-After") != "")
	}))
	first := httptest.NewRecorder()
	h.ServeHTTP(first, httptest.NewRequest("GET", "/", nil))
	fmt.Println(first.Code)
	// Output:
	// 503 true
	// 200
}

func ExampleShedder_Transport() {
	next := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println(r.Header.Get(degrade.PriorityHeader), r.Header.Get(degrade.TimeoutHeader) != "")
	}))
	defer next.Close()
	client := &http.Client{Transport: degrade.MustNew(degrade.Config{}).Transport(nil)}

	// In a handler behind Shedder.Handler the request's context has the priority.
	ctx, cancel := context.WithTimeout(degrade.WithPriority(context.Background(), degrade.Critical), time.Minute)
	defer cancel()
	r, _ := http.NewRequestWithContext(ctx, "GET", next.URL, nil)
	resp, err := client.Do(r)
	if err == nil {
		resp.Body.Close()
	}
	// Output: critical true
}

func ExampleFeature_Needs() {
	up := false // a breaker, a health check
	sw := degrade.MustNewSwitch(degrade.SwitchConfig{})
	reviews := sw.Feature("reviews", degrade.Optional).Needs(func() bool { return up })

	h := sw.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println(reviews.EnabledFor(r.Context()))
	}))
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	for name, text := range sw.Conditions() {
		fmt.Println(name, text)
	}
	// Output:
	// false
	// reviews off: what it needs is down
}

func ExampleFeature_Keep() {
	sw := degrade.MustNewSwitch(degrade.SwitchConfig{Key: func(r *http.Request) string { return r.Header.Get("User") }})
	reviews := sw.Feature("reviews", degrade.Optional).Keep(0.25)
	sw.Set(degrade.Override{Target: "level", Level: degrade.Reduced, Author: "ann", Reason: "load test", Expires: time.Now().Add(time.Hour)})

	have := 0
	h := sw.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if reviews.EnabledFor(r.Context()) {
			have++
		}
	}))
	for user := range 1000 {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("User", fmt.Sprint(user))
		h.ServeHTTP(httptest.NewRecorder(), r)
	}
	fmt.Println("about a quarter:", have > 200 && have < 300)
	// Output: about a quarter: true
}

func ExampleSwitch_Admin() {
	sw := degrade.MustNewSwitch(degrade.SwitchConfig{})
	reviews := sw.Feature("reviews", degrade.Optional)

	// curl -X PUT -H 'Content-Type: application/json' -d '{…}' localhost:8080/-/switch
	r := httptest.NewRequest("PUT", "http://localhost:8080/-/switch", strings.NewReader(
		`{"target":"reviews","author":"ann","reason":"database is slow","for":"2h"}`))
	r.RemoteAddr = "127.0.0.1:54321"
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	sw.Admin().ServeHTTP(w, r)
	fmt.Println(w.Code, reviews.Enabled())
	// Output: 200 false
}

func ExampleStatic() {
	sw := degrade.MustNewSwitch(degrade.SwitchConfig{})
	reviews := sw.Feature("reviews", degrade.Optional)
	h := reviews.Handler(http.NotFoundHandler(), degrade.Static("application/json", []byte(`{"reviews":[]}`)))

	sw.Set(degrade.Override{Target: "reviews", Author: "ann", Reason: "drill", Drill: true, Expires: time.Now().Add(time.Hour)})
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/reviews", nil))
	fmt.Println(w.Body)
	// Output: {"reviews":[]}
}
