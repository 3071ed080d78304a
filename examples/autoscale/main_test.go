package main

import (
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert/yaml"
	"github.com/stretchr/testify/require"
)

// The test runs the program itself: this test binary, with runEnv set.
const runEnv = "SPILLWAY_EXAMPLE_RUN"

func TestMain(m *testing.M) {
	if os.Getenv(runEnv) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// start runs the program on a free port and stops it, cleanly, with the test.
func start(t *testing.T, args ...string) (url string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := ln.Addr().String()
	require.NoError(t, ln.Close())
	cmd := exec.Command(os.Args[0], append([]string{"-listen", addr}, args...)...)
	cmd.Env = append(os.Environ(), runEnv+"=1")
	cmd.Stderr = os.Stderr
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("it did not stop cleanly: %v", err)
		}
	})
	require.Eventually(t, func() bool { return get("http://"+addr+"/readyz") != "" }, 15*time.Second, 10*time.Millisecond)
	return "http://" + addr
}

// get returns the body of a 200, or "".
func get(url string) string {
	resp, err := http.Get(url)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		return ""
	}
	return string(body)
}

// sum adds up the series of a metric, as the query in keda.yaml does.
func sum(metrics, name string) (total float64) {
	for _, m := range regexp.MustCompile(`(?m)^`+name+`(?:\{[^}]*\})? (\S+)$`).FindAllStringSubmatch(metrics, -1) {
		v, _ := strconv.ParseFloat(m[1], 64)
		total += v
	}
	return total
}

func TestDemandRisesWithTheLoadAndFallsWithIt(t *testing.T) {
	url := start(t, "-turn", "6s", "-low", "20") // it takes some 3 s to forget the refused
	demand := func() float64 { return sum(get(url+"/metrics"), "spillway_degrade_demand") }
	quiet := demand()
	require.Less(t, quiet, float64(perReplica), "one replica is enough for 20 a second")
	require.Eventually(t, func() bool {
		m := get(url + "/metrics")
		return sum(m, "spillway_degrade_demand") > 2*perReplica && sum(m, "spillway_degrade_saturation_ratio") > 0.7
	}, 30*time.Second, 20*time.Millisecond, "600 a second need more than two replicas")
	require.Eventually(t, func() bool { return demand() < perReplica }, 30*time.Second, 20*time.Millisecond, "and then it is quiet again")
}

// What Prometheus and Kubernetes add.
var foreign = []string{"job", "instance", "namespace", "pod"}

func TestTheManifestsReadWhatTheProgramServes(t *testing.T) {
	metrics := get(start(t, "-high", "0") + "/metrics")
	series := regexp.MustCompile(`\b(spillway_[a-z0-9_]+)(?:\{([^{}]*)\})?`)
	matcher := regexp.MustCompile(`([a-z_]+)(?:=~|!~|!=|=)"([^"]*)"`)
	for _, file := range []string{"keda.yaml", "hpa.yaml", "prometheus-adapter.yaml"} {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		found := series.FindAllStringSubmatch(string(text), -1)
		require.NotEmpty(t, found, file)
	names:
		for _, m := range found {
			want := []string{m[1] + "{"}
			for _, l := range matcher.FindAllStringSubmatch(m[2], -1) {
				if !strings.Contains(" "+strings.Join(foreign, " ")+" ", " "+l[1]+" ") {
					want = append(want, l[1]+`="`+l[2]+`"`)
				}
			}
			for line := range strings.Lines(metrics) {
				all := strings.HasPrefix(line, want[0])
				for _, w := range want[1:] {
					all = all && strings.Contains(line, w)
				}
				if all {
					continue names
				}
			}
			t.Errorf("%s reads %s, which the program does not serve", file, m[0])
		}
	}
}

func TestTheThresholdOfKEDAIsTheProgramsOwn(t *testing.T) {
	text, err := os.ReadFile("keda.yaml")
	require.NoError(t, err)
	var k struct {
		Spec struct {
			Triggers []struct{ Metadata map[string]string }
		}
	}
	require.NoError(t, yaml.Unmarshal(text, &k))
	require.Contains(t, k.Spec.Triggers[0].Metadata["query"], "spillway_degrade_demand")
	require.Equal(t, strconv.Itoa(perReplica), k.Spec.Triggers[0].Metadata["threshold"])
}
