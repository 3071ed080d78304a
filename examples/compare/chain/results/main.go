// Command results measures the whole of Spillway beside the best assembly of
// other libraries, and prints a table of what it found. With -write it puts the
// table between the markers of the README.
//
//	cd examples/compare && go run ./chain/results -write
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/go-spillway/spillway/examples/compare/chain"
)

const (
	begin = "<!-- results -->"
	end   = "<!-- /results -->"
)

func main() {
	write := flag.Bool("write", false, "put the table into the README")
	short := flag.Bool("short", false, "measure for seconds, not minutes: to see that it works")
	flag.Parse()
	if err := run(*write, *short); err != nil {
		fmt.Fprintln(os.Stderr, "results:", err)
		os.Exit(1)
	}
}

func run(write, short bool) error {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/go-spillway/spillway").Output()
	if err != nil {
		return fmt.Errorf("run it in examples/compare: %w", err)
	}
	root := strings.TrimSpace(string(out))
	var page bytes.Buffer
	if err := table(&page, root, short); err != nil {
		return err
	}
	if !write {
		_, err := page.WriteTo(os.Stdout)
		return err
	}
	readme := filepath.Join(root, "README.md")
	old, err := os.ReadFile(readme)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(old), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return errors.New("README.md has no markers " + begin + " and " + end)
	}
	return os.WriteFile(readme, []byte(before+begin+"\n"+page.String()+end+after), 0o644)
}

func table(w io.Writer, root string, short bool) error {
	rounds, slice, loops, loopSlice := 40, 20*time.Millisecond, 15, 150*time.Millisecond
	if short {
		rounds, slice, loops, loopSlice = 3, 5*time.Millisecond, 2, 30*time.Millisecond
	}
	// First what needs a process of its own, so that nothing else runs later.
	weights, err := chain.Weigh(filepath.Join(root, "examples", "compare", "chain"))
	if err != nil {
		return err
	}
	args := []string{"test", "./examples/chain", "-run", "TestScale|TestTenThousandStreams", "-v", "-count=1", "-timeout=20m"}
	if !short {
		args = append(args, "-args", "-scale")
	}
	scale, err := rows(root, args...)
	if err != nil {
		return err
	}
	overload, err := rows(filepath.Join(root, "examples", "compare"), "test", "./degrade", "-run", "TestGoodputInVirtualTime", "-v", "-count=1")
	if err != nil {
		return err
	}
	inProcess := chain.MeasureInProcess(chain.Cases(), rounds, slice)
	loopback, err := chain.MeasureLoopback(chain.Cases(), loops, loopSlice)
	if err != nil {
		return err
	}
	proxied, err := chain.MeasureProxy(loops, loopSlice)
	if err != nil {
		return err
	}

	var ahead []string // where the rivals are
	better := func(yes bool, what string) {
		if yes {
			ahead = append(ahead, what)
		}
	}
	fmt.Fprintf(w, "\nThe whole chain beside the best one that can be put together from other modules, measured on %s with %d cores and %s.\n",
		machine(), runtime.NumCPU(), runtime.Version())
	fmt.Fprint(w, "The machine is shared: trust the ratios, which compare slices that ran one after the other, and not the absolute figures.\n\n")
	fmt.Fprint(w, "In process: what the chain adds to a handler that answers 1 KiB, in processor time with all that the collector takes.\n\n")
	fmt.Fprint(w, "| request | | adds, one at a time | adds, on all cores | allocations | theirs / ours |\n|---|---|---|---|---|---|\n")
	for _, kind := range []string{"no-store", "miss", "hit"} {
		bare, ours, theirs := pick(inProcess, "bare", kind), pick(inProcess, "spillway", kind), pick(inProcess, "rivals", kind)
		better(theirs.RatioTo(ours, bare, 0) < 1, "processor time one at a time, "+kinds[kind])
		better(theirs.RatioTo(ours, bare, 1) < 1, "processor time on all cores, "+kinds[kind])
		better(theirs.Allocs < ours.Allocs, "allocations, "+kinds[kind])
		better(theirs.Bytes < ours.Bytes, "bytes allocated, "+kinds[kind])
		for _, p := range []*chain.InProcess{ours, theirs} {
			ratio := ""
			if p == ours {
				ratio = fmt.Sprintf("%.2f, on all cores %.2f", theirs.RatioTo(ours, bare, 0), theirs.RatioTo(ours, bare, 1))
			}
			fmt.Fprintf(w, "| %s | %s | %.2f µs | %.2f µs | %.0f, %.0f B | %s |\n", kinds[kind], p.Name, p.Added(bare, 0)/1e3, p.Added(bare, 1)/1e3,
				p.Allocs-bare.Allocs, p.Bytes-bare.Bytes, ratio)
		}
	}
	for _, p := range inProcess {
		if p.Refused > 0 {
			fmt.Fprintf(w, "\nOf %s, %s, %d answers were refusals.\n", p.Name, kinds[p.Kind], p.Refused)
		}
	}
	fmt.Fprint(w, "\nOver loopback: throughput with 16 connections, as a share of the bare handler's (last row: of `httputil.ReverseProxy`'s), client and server on the same cores. Bare beside bare shows the noise.\n\n")
	fmt.Fprint(w, "| request | bare | spillway | rivals |\n|---|---|---|---|\n")
	all := append(loopback, proxied...)
	var refusals []string
	for _, kind := range []string{"no-store", "miss", "hit", "proxied"} {
		share := map[string]float64{}
		for _, l := range all {
			if l.Kind == kind {
				share[l.Name] = l.ToBare
				if l.Refused > 0 {
					refusals = append(refusals, fmt.Sprintf("%s, %s: %.3f %%", l.Name, kinds[kind], 100*l.Refused))
				}
			}
		}
		fmt.Fprintf(w, "| %s | %.2f | %.2f | %.2f |\n", kinds[kind], share["bare"], share["spillway"], share["rivals"])
		better(share["rivals"] > share["spillway"], "throughput over loopback, "+kinds[kind])
	}
	if len(refusals) > 0 {
		fmt.Fprintf(w, "\nAt that load the limiters refused some, which are not counted: %s.\n", strings.Join(refusals, "; "))
	}
	ours, theirs := weights["spillway"], weights["rivals"]
	fmt.Fprint(w, "\nWeight, in front of backends.\n\n| | spillway | rivals |\n|---|---|---|\n")
	fmt.Fprintf(w, "| lines of Go to write | %d | %d |\n", ours.Lines, theirs.Lines)
	fmt.Fprintf(w, "| modules linked | %d | %d |\n", ours.Modules, theirs.Modules)
	fmt.Fprintf(w, "| binary, more than a plain reverse proxy | %.2f MB | %.2f MB |\n", float64(ours.Binary)/1e6, float64(theirs.Binary)/1e6)
	fmt.Fprintf(w, "| the same, stripped | %.2f MB | %.2f MB |\n", float64(ours.Stripped)/1e6, float64(theirs.Stripped)/1e6)
	better(theirs.Binary < ours.Binary, "size of the binary")
	fmt.Fprint(w, "\nOverload: 64 workers that take 100 ms each, at half of their capacity and then at 2 and 5 times that for ten seconds, clients that give up after one; in virtual time, which does not depend on the machine.\n\n")
	fmt.Fprint(w, "| limiter | load | answered, of the capacity | of the critical ones | p50 | p99 |\n|---|---|---|---|---|---|\n")
	for _, row := range overload {
		fmt.Fprintln(w, strings.Join(strings.Fields(row), " "))
	}
	for _, load := range []string{"2x", "5x"} {
		for i, name := range []string{"share answered", "share of critical ones answered", "p50 of what is answered", "p99 of what is answered"} {
			ours, best := overloads(overload, load, i)
			better(i < 2 && best > ours || i >= 2 && best < ours, name+" at "+load+" the capacity")
		}
	}
	fmt.Fprint(w, "\nScale: memory grows with the number and no faster, and a call allocates no more among many than among few (both are tested). Its time grows by far less than the number.\n\n")
	fmt.Fprint(w, "| how many | memory | processor time |\n|---|---|---|\n")
	for _, row := range scale {
		fmt.Fprintln(w, row)
	}
	fmt.Fprintf(w, "\nRivals: %s.\n", strings.Join(versions(), ", "))
	fmt.Fprint(w, `In their best configuration: the cache stands only in front of what may be stored, so that they pay nothing for it on other paths,
and does not read Cache-Control at all; failsafe-go's limiter without its slower handler; flags in memory; no metrics, which Spillway always counts.
Left out because the module proxy does not have them: moonrhythm/parapet, platinummonkey/go-concurrency-limits, victorspringer/http-cache.
`)
	if len(ahead) > 0 {
		fmt.Fprintf(w, "The rivals are ahead in: %s.\n", strings.Join(ahead, "; "))
	}
	fmt.Fprintln(w)
	fmt.Fprint(w, "Run it again: `cd examples/compare && go run ./chain/results -write`\n")
	return nil
}

var kinds = map[string]string{
	"no-store": "not to be stored",
	"miss":     "stored for the first time",
	"hit":      "hit",
	"proxied":  "not to be stored, from a backend",
}

func pick(all []*chain.InProcess, name, kind string) *chain.InProcess {
	for _, p := range all {
		if p.Name == name && p.Kind == kind {
			return p
		}
	}
	return nil
}

var row = regexp.MustCompile(`(?m)^(?: +\w+\.go:\d+: )?(\|.*\|)$`)

// rows runs a command of the go tool, and returns the rows of tables that its
// tests log or print.
func rows(dir string, args ...string) ([]string, error) {
	cmd := exec.Command("go", args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	var all []string
	for _, m := range row.FindAllSubmatch(out, -1) {
		all = append(all, string(m[1]))
	}
	return all, nil
}

// overloads returns our figure and the best of the rivals, of a column after
// that of the load: the first two are shares, of which more is better, the
// others times.
func overloads(rows []string, load string, column int) (ours, best float64) {
	for _, row := range rows {
		cells := strings.Split(row, "|")
		if len(cells) < 7 || strings.TrimSpace(cells[2]) != load {
			continue
		}
		var x float64
		cell := strings.TrimSpace(cells[3+column])
		if d, err := time.ParseDuration(cell); err == nil {
			x = d.Seconds()
		} else {
			fmt.Sscan(cell, &x)
		}
		switch {
		case strings.TrimSpace(cells[1]) == "spillway":
			ours = x
		case best == 0 || column < 2 && x > best || column >= 2 && x < best:
			best = x
		}
	}
	return ours, best
}

// versions are the rivals that this program is linked with.
func versions() []string {
	names := []string{"alexliesenfeld/health", "go-chi/httprate", "go-chi/stampede", "failsafe-go/failsafe-go", "open-feature/go-sdk", "sony/gobreaker", "vulcand/oxy"}
	info, _ := debug.ReadBuildInfo()
	var all []string
	for _, name := range names {
		for _, m := range info.Deps {
			if strings.Contains(m.Path, name) {
				all = append(all, name+" "+m.Version)
			}
		}
	}
	return all
}

// machine says what the processor is.
func machine() string {
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				return strings.TrimSpace(value)
			}
		}
	}
	return runtime.GOARCH
}
