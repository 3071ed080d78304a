package chain

import (
	"context"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/balancer"
	"github.com/go-spillway/spillway/breaker"
	"github.com/go-spillway/spillway/cache"
	"github.com/go-spillway/spillway/degrade"
	"github.com/go-spillway/spillway/health"
	"github.com/go-spillway/spillway/ratelimit"
)

// field follows a path of field names, exported or not: what is asked here is
// what the code does with a Config that says nothing.
func field(t *testing.T, from any, path string) reflect.Value {
	v, ok := from.(reflect.Value)
	if !ok {
		v = reflect.ValueOf(from)
	}
	for name := range strings.SplitSeq(path, ".") {
		for v.Kind() == reflect.Pointer {
			v = v.Elem()
		}
		v = v.FieldByName(name)
		require.True(t, v.IsValid(), "%T has no %s", from, path)
	}
	return v
}

// shown is a value as the README shows it; "" is for what has no default.
func shown(v reflect.Value) string {
	switch {
	case v.Kind() == reflect.Float64 && v.Float() != 0:
		return fmt.Sprint(v.Float())
	case v.Type() == reflect.TypeFor[time.Duration]():
		d := time.Duration(v.Int())
		for _, unit := range []struct {
			d    time.Duration
			name string
		}{{time.Minute, "min"}, {time.Second, "s"}, {time.Millisecond, "ms"}} {
			if d > 0 && d%unit.d == 0 {
				return fmt.Sprintf("%d %s", d/unit.d, unit.name)
			}
		}
	case v.CanInt() && v.Int() != 0:
		switch n := v.Int(); {
		case n%(1<<20) == 0:
			return fmt.Sprintf("%d Mi", n>>20)
		case n%(1<<10) == 0:
			return fmt.Sprintf("%d Ki", n>>10)
		case n >= 1000:
			return fmt.Sprintf("%d,%03d", n/1000, n%1000)
		default:
			return fmt.Sprint(n)
		}
	}
	return ""
}

// defaults collects what is not zero in a Config that has been checked, with
// the names of its nested fields.
func defaults(v reflect.Value, prefix string, into map[string]string) {
	for i := range v.NumField() {
		name, f := v.Type().Field(i).Name, v.Field(i)
		if f.Kind() == reflect.Struct && f.Type().PkgPath() != "" {
			defaults(f, prefix+name+".", into)
		} else if s := shown(f); s != "" {
			into[prefix+name] = s
		}
	}
}

func TestTheDefaultsInTheREADMEAreThoseOfTheCode(t *testing.T) {
	want := map[string]string{}
	all := func(pkg string, noun any, path string) {
		found := map[string]string{}
		defaults(field(t, noun, path), "", found)
		for name, s := range found {
			want[pkg+" "+name] = s
		}
	}
	one := func(pkg, name string, noun any, path string) { want[pkg+" "+name] = shown(field(t, noun, path)) }

	all("ratelimit", ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerMinute(1)}), "cfg")
	c := cache.MustNew(cache.Config{Store: noStore{}})
	one("cache", "MaxBytes", c, "policy.max")
	one("cache", "MaxBodyBytes", c, "maxBody")
	one("cache", "MaxVariants", c, "maxVariants")
	one("cache", "HitForMiss", c, "hitForMiss")
	one("cache", "FillTimeout", c, "fillTimeout")
	one("cache", "StoreTimeout", c, "tier.timeout")
	l := cache.MustNewLoader(cache.LoaderConfig[string, int]{Load: func(context.Context, string) (int, error) { return 0, nil }})
	defer l.Close()
	all("cache.Loader", l, "cfg")
	shed := degrade.MustNew(degrade.Config{})
	one("degrade", "Throttle", shed, "cfg.Throttle")
	one("degrade", "MaxQueue", shed, "core.maxQueue")
	all("degrade.Switch", degrade.MustNewSwitch(degrade.SwitchConfig{}), "cfg")
	all("breaker", breaker.MustNew(breaker.Config{}), "fam.cfg")
	all("balancer", balancer.MustNew(balancer.Config{Backends: balancer.URLs("http://127.0.0.1"), Probe: balancer.Probe{Path: "/"}}), "cfg")
	h := health.MustNew(health.Config{Checks: map[string]health.Check{"db": {Probe: func(context.Context) error { return nil }}}})
	all("health", h, "cfg")
	check := map[string]string{}
	defaults(field(t, field(t, h, "checks").Index(0), "cfg"), "Check.", check)
	for name, s := range check {
		if name != "Check.Groups" {
			want["health "+name] = s
		}
	}
	delete(want, "ratelimit Rate.Requests") // given above
	delete(want, "ratelimit Rate.Per")

	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	_, table, found := strings.Cut(string(readme), "<!-- defaults -->")
	require.True(t, found)
	table, _, _ = strings.Cut(table, "<!-- /defaults -->")
	got := map[string]string{}
	pkg := ""
	for _, row := range regexp.MustCompile(`(?m)^\|([^|]*)\|([^|]*)\|([^|]*)\|[^|]+\|$`).FindAllStringSubmatch(table, -1)[2:] {
		if p := strings.TrimSpace(row[1]); p != "" {
			pkg = p
		}
		names := regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[2], -1)
		values := strings.Split(strings.TrimSpace(row[3]), "; ")
		require.Equal(t, len(names), len(values), "each field has a value: %s", row[0])
		for i, n := range names {
			got[pkg+" "+n[1]] = values[i]
		}
	}
	require.Equal(t, want, got, "each number that Config leaves zero and the code fills in is in the table, and no other")
}

type noStore struct{ cache.Store }
