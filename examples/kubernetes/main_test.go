package main

import (
	"bytes"
	"debug/elf"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
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

func TestTheImageHoldsAStaticFileThatDrainsOnSIGTERM(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the standard library anew")
	}
	dockerfile, err := os.ReadFile("Dockerfile")
	require.NoError(t, err)
	line := regexp.MustCompile(`(?m)^RUN (CGO_ENABLED=0 go build .*) -o /orders \./examples/kubernetes$`).FindSubmatch(dockerfile)
	require.NotNil(t, line, "it builds this program")
	require.Contains(t, string(dockerfile), "\nENTRYPOINT [\"/orders\"]\n")
	bin := filepath.Join(t.TempDir(), "orders")
	out, err := exec.Command("sh", "-c", string(line[1])+" -o "+bin+" .").CombinedOutput()
	require.NoError(t, err, "%s", out)
	if f, err := elf.Open(bin); err == nil { // on Linux
		libraries, err := f.ImportedLibraries()
		require.NoError(t, err)
		require.Empty(t, libraries, "there is no library in the image")
		f.Close()
	}

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := ln.Addr().String()
	require.NoError(t, ln.Close())
	cmd := exec.Command(bin, "-listen", addr)
	cmd.Env = []string{} // as bare as the image
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	status := func(path string) int {
		resp, err := http.Get("http://" + addr + path)
		if err != nil {
			return 0
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	require.Eventually(t, func() bool { return status("/readyz") == 200 }, 15*time.Second, 10*time.Millisecond)
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	require.Eventually(t, func() bool { return status("/readyz") == 503 }, 5*time.Second, 10*time.Millisecond)
	require.Equal(t, 200, status("/"), "what still comes is served")
	require.Equal(t, 200, status("/livez"), "and nobody restarts it for that")
}
