package main

import (
	"bytes"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert/yaml"
	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/health"
)

type probe struct {
	HTTPGet struct {
		Path string
		Port string
	} `yaml:"httpGet"`
	PeriodSeconds    int `yaml:"periodSeconds"`
	FailureThreshold int `yaml:"failureThreshold"`
}

type deployment struct {
	Kind string
	Spec struct {
		Template struct {
			Metadata struct{ Annotations map[string]string }
			Spec     struct {
				Grace      int `yaml:"terminationGracePeriodSeconds"`
				Containers []struct {
					Ports     []struct{ Name string }
					Startup   probe `yaml:"startupProbe"`
					Readiness probe `yaml:"readinessProbe"`
					Liveness  probe `yaml:"livenessProbe"`
				}
			}
		}
	}
}

func TestTheDeploymentAgreesWithTheProgram(t *testing.T) {
	file, err := os.ReadFile("deployment.yaml")
	require.NoError(t, err)
	first, _, _ := bytes.Cut(file, []byte("\n---\n"))
	var d deployment
	require.NoError(t, yaml.Unmarshal(first, &d))
	require.Equal(t, "Deployment", d.Kind)
	c := d.Spec.Template.Spec.Containers[0]
	drain := config().Drain

	require.Equal(t, drain.Grace, time.Duration(d.Spec.Template.Spec.Grace)*time.Second)
	noticed := time.Duration(c.Readiness.PeriodSeconds*c.Readiness.FailureThreshold) * time.Second
	require.Greater(t, drain.Delay, noticed, "the platform notices before the listener closes")

	h, err := health.New(config())
	require.NoError(t, err, "the budget fits")
	front := service(h)
	for path, want := range map[string]int{
		c.Startup.HTTPGet.Path:   503, // it has not begun
		c.Readiness.HTTPGet.Path: 503,
		c.Liveness.HTTPGet.Path:  200,
		d.Spec.Template.Metadata.Annotations["prometheus.io/path"]: 200,
		"/-/": 200,
	} {
		rec := httptest.NewRecorder()
		front.ServeHTTP(rec, httptest.NewRequest("GET", path, nil))
		require.Equal(t, want, rec.Code, path)
	}
	for _, p := range []probe{c.Startup, c.Readiness, c.Liveness} {
		require.Equal(t, c.Ports[0].Name, p.HTTPGet.Port)
	}
}
