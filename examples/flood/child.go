package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A child is a process of this same program, so that it can be killed, stopped
// and restarted like a real server. It learns from the environment what it is,
// prints its URL as its first line when it listens, and ends at SIGTERM or when
// its parent does, however that dies: it waits for the end of its stdin.
type child struct {
	spec    childSpec
	url     string
	cmd     *exec.Cmd
	stdin   io.Closer
	exited  chan struct{}
	freezer *child // the last one
}

// A childSpec is what a child is told.
type childSpec struct {
	Role      string // "shop", "backend" or "freezer"
	Name      string // "bare/b2"
	Addr      string // where to listen; "127.0.0.1:0" the first time, the same address after a restart
	Protected bool   // with Spillway

	// Of a backend.
	Connections int     // to its database
	Version     string  // "v1", or "v2": the bad deploy
	Seed        uint64  // of its database's times
	Slow        float64 // how many times slower than usual its database is

	// Of a shop.
	Backends []string // their URLs
	Plans    map[string]int

	// Of a freezer.
	Pid int
}

// childEnv holds the childSpec of a child in JSON.
const childEnv = "SPILLWAY_FLOOD_CHILD"

// startTimeout bounds how long a child may take until it listens, on a machine
// that is as busy as this program makes it.
const startTimeout = 15 * time.Second

// startChild starts a child and waits until it listens.
func startChild(spec childSpec) (*child, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	env, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	c := &child{spec: spec, cmd: exec.Command(exe), exited: make(chan struct{})}
	// One processor each, and few collections: there are eight of them beside a
	// load generator that has to be on time.
	c.cmd.Env = append(os.Environ(), childEnv+"="+string(env), "GOMAXPROCS=1", "GOGC=400")
	c.cmd.Stderr = os.Stderr
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	patience := time.AfterFunc(startTimeout, func() { c.cmd.Process.Kill() })
	line, err := bufio.NewReader(stdout).ReadString('\n')
	patience.Stop()
	go func() {
		c.cmd.Wait() // reaps it, whenever it dies
		close(c.exited)
	}()
	if err != nil {
		c.cmd.Process.Kill()
		return nil, fmt.Errorf("%s did not start: %w", spec.Name, err)
	}
	c.url = strings.TrimSpace(line)
	c.spec.Addr = strings.TrimPrefix(c.url, "http://")
	return c, nil
}

// restart starts the child again on its old address, once it is gone.
func (c *child) restart(change func(*childSpec)) (*child, error) {
	spec := c.spec
	if change != nil {
		change(&spec)
	}
	return startChild(spec)
}

// kill ends the child at once, as the kernel does when memory runs out.
func (c *child) kill() error {
	err := c.cmd.Process.Kill()
	<-c.exited
	return err
}

// freeze stops the child: its connections stay open and nobody answers. A
// process of its own does it and undoes it when its stdin ends, so that no
// child stays frozen for ever, however this process dies.
func (c *child) freeze() (err error) {
	c.freezer, err = startChild(childSpec{Role: "freezer", Name: "freezer of " + c.spec.Name, Pid: c.cmd.Process.Pid})
	return err
}

func (c *child) thaw() error {
	c.freezer.stdin.Close()
	<-c.freezer.exited
	return nil
}

// runFreezer is the main function of a freezer.
func runFreezer(pid int) error {
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		return err
	}
	fmt.Println("frozen")
	io.Copy(io.Discard, os.Stdin)
	return syscall.Kill(pid, syscall.SIGCONT)
}

// term asks the child to end, and waits until it has.
func (c *child) term() error {
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-c.exited:
		return nil
	case <-time.After(10 * time.Second):
		c.kill()
		return errors.New("did not end within 10 s of SIGTERM")
	}
}

// end ends the child whatever state it is in.
func (c *child) end() {
	if c == nil {
		return
	}
	c.freezer.end()
	c.stdin.Close()
	c.kill()
}

// runChild is the main function of a child.
func runChild(env string) error {
	var spec childSpec
	if err := json.Unmarshal([]byte(env), &spec); err != nil {
		return fmt.Errorf("%s: %w", childEnv, err)
	}
	signal.Ignore(os.Interrupt) // Ctrl-C is for the parent, which has a report to write
	if spec.Role == "freezer" {
		return runFreezer(spec.Pid)
	}
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	if spec.Role == "backend" {
		time.Sleep(backendStartup)
	}
	ln, err := listen(spec.Addr)
	if err != nil {
		return fmt.Errorf("%s: %w", spec.Name, err)
	}
	announce := sync.OnceFunc(func() { fmt.Printf("http://%s\n", ln.Addr()) })
	switch spec.Role {
	case "backend":
		return runBackend(spec, ln, announce)
	case "shop":
		return runShop(spec, ln, announce)
	}
	return fmt.Errorf("%s is a %q, which is no role", spec.Name, spec.Role)
}

// listen takes an address that a process before may have freed only just now.
func listen(addr string) (net.Listener, error) {
	for tries := 0; ; tries++ {
		ln, err := net.Listen("tcp", addr)
		if err == nil || tries == 40 {
			return ln, err
		}
		time.Sleep(25 * time.Millisecond)
	}
}
