package degrade

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"sort"
	"strings"
	"time"
)

// An Override is a decision made by hand. It says who made it and why, and it
// ends by itself.
type Override struct {
	// Target is the name of a feature, or "level".
	Target string `json:"target"`
	// Level is the level to hold when Target is "level".
	Level Level `json:"level,omitempty"`
	// Share is how many of the users have the feature: 0 nobody, 1 all, and
	// between, those whom SwitchConfig.Key puts there, always the same. Of a
	// level it is how many users it is set for; there 0 means all, too.
	Share float64 `json:"share,omitempty"`
	// Keys are users who have the feature whatever Share says.
	Keys []string `json:"keys,omitempty"`
	// Author and Reason are required.
	Author string `json:"author"`
	Reason string `json:"reason"`
	// Expires is required and at most a year away.
	Expires time.Time `json:"expires"`
	// Drill marks an exercise.
	Drill bool `json:"drill,omitempty"`
}

func (o Override) because() string {
	what := "set by"
	if o.Drill {
		what = "drill by"
	}
	return fmt.Sprintf("%s %s until %s: %s", what, o.Author, o.Expires.UTC().Format(time.RFC3339), o.Reason)
}

func (o Override) check(now time.Time) error {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("degrade: Override."+format, args...))
	}
	if o.Target == "" {
		bad("Target is empty, must be a feature or \"level\"")
	}
	if o.Level < 0 || o.Level > maxLevel {
		bad("Level is %d, must be 0 to %d", int(o.Level), maxLevel)
	}
	if math.IsNaN(o.Share) || o.Share < 0 || o.Share > 1 {
		bad("Share is %v, must be 0 to 1", o.Share)
	}
	if o.Author == "" || len(o.Author) > 200 {
		bad("Author is required, in at most 200 bytes")
	}
	if o.Reason == "" || len(o.Reason) > 1000 {
		bad("Reason is required, in at most 1000 bytes")
	}
	if !o.Expires.After(now) || o.Expires.Sub(now) > 366*24*time.Hour {
		bad("Expires is %s, must be in the future, at most a year away", o.Expires.UTC().Format(time.RFC3339))
	}
	return errors.Join(errs...)
}

// Set makes an override, in place of an earlier one with the same target.
func (s *Switch) Set(o Override) error {
	now := time.Now()
	if err := o.check(now); err != nil {
		return err
	}
	s.mu.Lock()
	if o.Target != "level" && !s.known(o.Target) {
		s.mu.Unlock()
		return fmt.Errorf("degrade: Override.Target is %q, must be a feature or \"level\"", o.Target)
	}
	o.Keys = slices.Clone(o.Keys) // the caller's slice is not ours to keep
	s.overrides[o.Target] = o
	s.noteLocked(now, "%s", o.sentence())
	s.publishLocked(now)
	s.mu.Unlock()
	s.hook.tell()
	return nil
}

func (o Override) sentence() string {
	what := fmt.Sprintf("%s on for %.3g%% of users", o.Target, o.Share*100)
	switch {
	case o.Target == "level":
		what = "level " + o.Level.String()
	case o.Share >= 1:
		what = o.Target + " on"
	case o.Share == 0 && len(o.Keys) == 0:
		what = o.Target + " off"
	}
	return what + ", " + o.because()
}

// Release ends the override of target, and reports whether there was one. Those
// of File stay. author is noted.
func (s *Switch) Release(target, author string) bool {
	now := time.Now()
	s.mu.Lock()
	_, ok := s.overrides[target]
	if ok {
		delete(s.overrides, target)
		s.noteLocked(now, "%s released by %s", target, author)
		s.publishLocked(now)
	}
	s.mu.Unlock()
	s.hook.tell()
	return ok
}

// Overrides returns those in force, by target.
func (s *Switch) Overrides() []Override {
	all, ended := s.inForce(time.Now())
	if ended {
		s.hook.tell()
	}
	return all
}

// inForce is Overrides. It also reports whether one has ended just now.
func (s *Switch) inForce(now time.Time) (all []Override, ended bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ended = s.expireLocked(now); ended {
		s.publishLocked(now) // nobody else will find that it has ended
	}
	all = []Override{}
	for _, o := range s.overrides {
		all = append(all, o)
	}
	for t, o := range s.file {
		if _, ok := s.overrides[t]; !ok {
			all = append(all, o)
		}
	}
	for i := range all {
		all[i].Keys = slices.Clone(all[i].Keys) // ours is read by requests without a lock
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Target < all[j].Target })
	return all, ended
}

func (s *Switch) known(name string) bool {
	for _, f := range s.features {
		if f.name == name {
			return true
		}
	}
	return false
}

// override returns the one in force for target: one set by hand comes before one
// from the file.
func (s *Switch) override(target string) (Override, bool) {
	if o, ok := s.overrides[target]; ok {
		return o, true
	}
	o, ok := s.file[target]
	return o, ok
}

// expireLocked ends what has expired, and reports whether anything had.
func (s *Switch) expireLocked(now time.Time) bool {
	ended := false
	for _, m := range []map[string]Override{s.overrides, s.file} {
		for t, o := range m {
			if !o.Expires.After(now) {
				delete(m, t)
				ended = true
				s.noteLocked(now, "%s: the override by %s has expired", t, o.Author)
			}
		}
	}
	return ended
}

type fileState struct {
	checked time.Time
	mod     time.Time
	size    int64
	err     string
}

// rereadFile reads the file again if it looks different. One that can't be read,
// or is not valid, changes nothing, which is told.
func (s *Switch) rereadFile(now time.Time) {
	if s.cfg.File == "" {
		return
	}
	s.mu.Lock()
	seen := s.fileSeen
	s.mu.Unlock()
	if now.Sub(seen.checked) < time.Second {
		return
	}
	info, err := os.Stat(s.cfg.File)
	if err == nil && seen.err == "" && info.ModTime().Equal(seen.mod) && info.Size() == seen.size {
		s.mu.Lock()
		s.fileSeen.checked = now
		s.mu.Unlock()
		return
	}
	err = s.readFile()
	s.mu.Lock()
	s.fileSeen.checked = now
	if err != nil {
		if why := strings.ReplaceAll(err.Error(), "\n", "; "); s.fileSeen.err != why {
			s.fileSeen.err = why
			s.noteLocked(now, "file not read, what it said before stays: %s", why)
		}
	} else {
		s.fileSeen.err = ""
		s.noteLocked(now, "file read: %d overrides", len(s.file))
		s.publishLocked(now)
	}
	s.mu.Unlock()
	s.hook.tell()
}

// readFile reads File: a JSON array of overrides. Those that have expired are
// left out.
func (s *Switch) readFile() error {
	info, err := os.Stat(s.cfg.File)
	if err != nil {
		return err
	}
	b, err := os.ReadFile(s.cfg.File)
	if err != nil {
		return err
	}
	var list []Override
	if err := json.Unmarshal(b, &list); err != nil {
		return err
	}
	now := time.Now()
	m := map[string]Override{}
	for _, o := range list {
		if !o.Expires.IsZero() && !o.Expires.After(now) {
			continue
		}
		if err := o.check(now); err != nil {
			return err
		}
		m[o.Target] = o
	}
	s.mu.Lock()
	s.file = m
	s.fileSeen.mod, s.fileSeen.size = info.ModTime(), info.Size()
	s.mu.Unlock()
	return nil
}
