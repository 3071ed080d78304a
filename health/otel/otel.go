// Package otel shows what the parts of Spillway count through OpenTelemetry:
//
//	_, err := otel.Register(meterProvider.Meter("spillway"), h, limiter, cache)
//
// It needs the API of OpenTelemetry alone. Nothing is recorded while requests
// are served: the sources are read when a reader collects.
package otel

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/go-spillway/spillway/health"
)

// Register makes an observable instrument for each metric of the sources, and
// a callback that reads them at each collection. Metrics that a source does
// not emit when Register is called are not exported; those of this library
// emit all of theirs from the start. The registration ends with the meter's
// provider, or with the Unregister of what is returned.
//
// A metric such as spillway_ratelimit_requests_total becomes
// spillway.ratelimit.requests, with its unit apart from its name. There are no
// observable histograms in OpenTelemetry, so each part of a histogram is a
// counter: .count, .sum, and .bucket with the attribute le.
//
// Where two sources emit the same series, the first has it. A source that is
// nil or panics is an error.
func Register(meter metric.Meter, sources ...health.Source) (metric.Registration, error) {
	instruments := map[string]metric.Float64Observable{}
	var all []metric.Observable
	var errs []error
	for _, src := range sources {
		errs = append(errs, read(src, func(name, help, kind string, _ float64, _ ...string) {
			if instruments[name] != nil {
				return
			}
			i, err := instrument(meter, name, help, kind)
			if err != nil {
				errs = append(errs, err)
				return
			}
			instruments[name] = i
			all = append(all, i)
		}))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		seen := map[string]bool{}
		var errs []error
		for _, src := range sources {
			errs = append(errs, read(src, func(name, _, _ string, value float64, labels ...string) {
				i := instruments[name]
				if i == nil {
					return
				}
				set := attributes(labels)
				key := name + "\xff" + set.Encoded(attribute.DefaultEncoder())
				if seen[key] {
					return
				}
				seen[key] = true
				o.ObserveFloat64(i, value, metric.WithAttributeSet(set))
			}))
		}
		return errors.Join(errs...)
	}, all...)
}

// read collects from src and returns an error if that panics.
func read(src health.Source, emit func(name, help, kind string, value float64, labels ...string)) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("otel: a source panicked: %v", v)
		}
	}()
	src.Collect(emit)
	return nil
}

func instrument(meter metric.Meter, name, help, kind string) (metric.Float64Observable, error) {
	name, unit := nameOf(name, kind)
	switch kind {
	case "counter", "histogram":
		return meter.Float64ObservableCounter(name, metric.WithDescription(help), metric.WithUnit(unit))
	case "gauge":
		return meter.Float64ObservableGauge(name, metric.WithDescription(help), metric.WithUnit(unit))
	}
	return nil, fmt.Errorf("otel: %s is of kind %q, which is none", name, kind)
}

// nameOf returns the OpenTelemetry name and the UCUM unit of a sample's metric.
func nameOf(sample, kind string) (name, unit string) {
	part := ""
	unit = "1"
	switch kind {
	case "counter":
		sample = strings.TrimSuffix(sample, "_total")
	case "histogram":
		for _, p := range []string{"bucket", "sum", "count"} {
			if base, ok := strings.CutSuffix(sample, "_"+p); ok {
				sample, part = base, "."+p
			}
		}
	}
	for _, u := range [...]struct{ suffix, unit string }{{"_timestamp_seconds", "s"}, {"_seconds", "s"}, {"_bytes", "By"}, {"_ratio", "1"}} {
		if base, ok := strings.CutSuffix(sample, u.suffix); ok {
			sample, unit = base, u.unit
			if u.suffix == "_timestamp_seconds" {
				sample += "_timestamp"
			}
			break
		}
	}
	if part == ".bucket" || part == ".count" {
		unit = "1"
	}
	// spillway_health_check_up: the library, the package, and the rest.
	words := strings.SplitN(sample, "_", 3)
	if words[0] != "spillway" {
		words = []string{sample}
	}
	return strings.Join(words, ".") + part, unit
}

func attributes(labels []string) attribute.Set {
	kvs := make([]attribute.KeyValue, 0, len(labels)/2)
	for i := 0; i+1 < len(labels); i += 2 {
		kvs = append(kvs, attribute.String(labels[i], strings.ToValidUTF8(labels[i+1], "\uFFFD")))
	}
	return attribute.NewSet(slices.Clip(kvs)...)
}
