package chain

import (
	"bytes"
	"fmt"
	"go/scanner"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Weight is what a chain costs before it serves anything.
type Weight struct {
	Lines    int   // of Go, without blank lines and comments
	Modules  int   // linked, besides its own and the standard library
	Binary   int64 // bytes more than a plain reverse proxy
	Stripped int64 // the same, without symbols and debugging data (-ldflags "-s -w")
}

const self = "github.com/go-spillway/spillway/examples/compare"

// Weigh builds the programs and looks. dir is the folder of this package.
func Weigh(dir string) (map[string]*Weight, error) {
	tmp, err := os.MkdirTemp("", "weigh")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	size := map[string]int64{}
	for _, ldflags := range []string{"", "-s -w"} {
		for _, name := range []string{"bare", "spillway", "rivals"} {
			out := filepath.Join(tmp, name)
			if _, err := goTool(dir, "build", "-ldflags", ldflags, "-o", out, "./programs/"+name); err != nil {
				return nil, err
			}
			info, err := os.Stat(out)
			if err != nil {
				return nil, err
			}
			size[name+ldflags] = info.Size()
		}
	}
	weights := map[string]*Weight{}
	for _, name := range []string{"spillway", "rivals"} {
		w := &Weight{Binary: size[name] - size["bare"], Stripped: size[name+"-s -w"] - size["bare-s -w"]}
		list, err := goTool(dir, "list", "-deps", "-f", "{{with .Module}}{{.Path}}{{end}}", "./programs/"+name)
		if err != nil {
			return nil, err
		}
		modules := map[string]bool{}
		for m := range strings.FieldsSeq(list) {
			modules[m] = m != self
		}
		for _, other := range modules {
			if other {
				w.Modules++
			}
		}
		if w.Lines, err = lines(filepath.Join(dir, name, "chain.go")); err != nil {
			return nil, err
		}
		weights[name] = w
	}
	return weights, nil
}

func goTool(dir string, args ...string) (string, error) {
	cmd := exec.Command("go", args...)
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go %s: %w: %s", strings.Join(args, " "), err, stderr.Bytes())
	}
	return string(out), nil
}

// lines counts the lines that have a token on them.
func lines(file string) (int, error) {
	src, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	var s scanner.Scanner
	fset := token.NewFileSet()
	f := fset.AddFile(file, -1, len(src))
	s.Init(f, src, nil, 0)
	seen := map[int]bool{}
	for {
		pos, tok, lit := s.Scan()
		switch {
		case tok == token.EOF:
			return len(seen), nil
		case tok == token.SEMICOLON && lit == "\n": // the scanner's own
		default:
			seen[f.Line(pos)] = true
		}
	}
}
