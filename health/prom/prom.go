// Package prom shows what the parts of Spillway count through the official
// Prometheus client, beside the metrics that a service has there already:
//
//	prometheus.MustRegister(prom.Collector(h, limiter, cache))
//
// A service that has no other metrics does not need it: [health.Metrics]
// writes the same ones without a dependency.
package prom

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/go-spillway/spillway/health"
)

// Collector returns a collector that reads the sources at each scrape. A
// source given twice is read once. Where two sources emit the same series, as
// two of one type and one Name do, the first has it. It is safe for concurrent
// use.
func Collector(sources ...health.Source) prometheus.Collector {
	return collector{sources}
}

type collector struct{ sources []health.Source }

// Describe sends nothing, which makes the collector an unchecked one: checks
// and backends come and go.
func (collector) Describe(chan<- *prometheus.Desc) {}

// A series is one metric in the making.
type series struct {
	name, help, kind string
	labels, values   []string

	value   float64 // of a counter or gauge
	buckets map[float64]uint64
	sum     float64
	count   uint64
}

// Collect reads the sources.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	byKey := map[string]*series{}
	var order []*series
	kinds := map[string]string{}
	helps := map[string]string{} // the registry wants one help per name
	for _, src := range c.sources {
		mine := map[string]bool{} // series that this source began
		err := read(src, func(name, help, kind string, value float64, labels ...string) {
			part, le := "", 0.0
			if kind == "histogram" {
				name, part, le, labels = histogramPart(name, labels)
			}
			key := seriesKey(name, labels)
			s := byKey[key]
			switch {
			case kinds[name] != "" && kinds[name] != kind:
				return // two sources mean different things by one name
			case s != nil && (!mine[key] || kind != "histogram"):
				return // another has it
			case s == nil:
				if kinds[name] == "" {
					kinds[name], helps[name] = kind, help
				}
				s = &series{name: name, help: helps[name], kind: kind, value: value, buckets: map[float64]uint64{}}
				for j := 0; j+1 < len(labels); j += 2 {
					s.labels, s.values = append(s.labels, labels[j]), append(s.values, strings.ToValidUTF8(labels[j+1], "\uFFFD"))
				}
				byKey[key], mine[key] = s, true
				order = append(order, s)
			}
			switch part {
			case "_bucket":
				s.buckets[le] = uint64(value)
			case "_sum":
				s.sum = value
			case "_count":
				s.count = uint64(value)
			}
		})
		if err != nil {
			ch <- prometheus.NewInvalidMetric(prometheus.NewInvalidDesc(err), err)
		}
	}
	for _, s := range order {
		ch <- s.metric()
	}
}

func (s *series) metric() prometheus.Metric {
	desc := prometheus.NewDesc(s.name, s.help, s.labels, nil)
	var m prometheus.Metric
	var err error
	switch s.kind {
	case "counter":
		m, err = prometheus.NewConstMetric(desc, prometheus.CounterValue, s.value, s.values...)
	case "gauge":
		m, err = prometheus.NewConstMetric(desc, prometheus.GaugeValue, s.value, s.values...)
	case "histogram":
		m, err = prometheus.NewConstHistogram(desc, s.count, s.sum, s.buckets, s.values...)
	default:
		err = fmt.Errorf("prom: %s is of kind %q, which is none", s.name, s.kind)
	}
	if err != nil {
		return prometheus.NewInvalidMetric(desc, err)
	}
	return m
}

// read collects from src and returns an error if that panics, so that one
// source does not take the others with it.
func read(src health.Source, emit func(name, help, kind string, value float64, labels ...string)) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("prom: a source panicked: %v", v)
		}
	}()
	src.Collect(emit)
	return nil
}

// histogramPart takes a sample of a histogram apart: its family, which part of
// it the sample is, the bound of a bucket, and the labels without that.
func histogramPart(name string, labels []string) (base, part string, le float64, rest []string) {
	for _, part := range []string{"_bucket", "_sum", "_count"} {
		if base, ok := strings.CutSuffix(name, part); ok {
			for i := 0; i+1 < len(labels); i += 2 {
				if labels[i] == "le" && part == "_bucket" {
					le, _ = strconv.ParseFloat(labels[i+1], 64)
				} else {
					rest = append(rest, labels[i], labels[i+1])
				}
			}
			return base, part, le, rest
		}
	}
	return name, "", 0, labels
}

// seriesKey identifies a series whatever the order of its labels.
func seriesKey(name string, labels []string) string {
	var pairs []string
	for i := 0; i+1 < len(labels); i += 2 {
		pairs = append(pairs, labels[i]+"\xff"+labels[i+1])
	}
	slices.Sort(pairs)
	return name + "\xff" + strings.Join(pairs, "\xff")
}
