// SIGTERM has a default action.

//go:build unix

package chain

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

const importEnv = "SPILLWAY_CHAIN_IMPORT_TEST"

// TestMain lets a test look at a process that has imported all six packages
// and done nothing else.
func TestMain(m *testing.M) {
	if os.Getenv(importEnv) != "" {
		if n := runtime.NumGoroutine(); n != 1 {
			println("goroutines:", n)
			os.Exit(3)
		}
		if _, pattern := http.DefaultServeMux.Handler(httptest.NewRequest("GET", "/debug/vars", nil)); pattern != "" {
			println("registered on http.DefaultServeMux:", pattern)
			os.Exit(4)
		}
		syscall.Kill(os.Getpid(), syscall.SIGTERM) // the default action, if nobody has taken it away
		select {}
	}
	os.Exit(m.Run())
}

func TestImportingAllSixStartsAndTakesNothing(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), importEnv+"=1")
	out, err := cmd.CombinedOutput()
	require.Error(t, err)
	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	require.True(t, status.Signaled() && status.Signal() == syscall.SIGTERM, "%v: %s", err, out)
}
