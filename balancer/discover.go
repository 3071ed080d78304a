package balancer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Discover returns the current backends. It must return when ctx ends.
type Discover func(ctx context.Context) ([]Backend, error)

// discover calls Config.Discover until ctx ends.
func (b *Balancer) discover(ctx context.Context) {
	failed := 0
	for {
		began := time.Now()
		ok := b.discoverOnce(ctx)
		if ctx.Err() != nil {
			return
		}
		every := b.cfg.DiscoverEvery
		if ok {
			failed = 0
		} else {
			// Sooner at first: there may be no backends at all yet.
			every = min(every, time.Second<<min(failed, 10))
			failed++
		}
		every = b.vary(every, 0.1)
		timer := time.NewTimer(every)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-b.hint:
			timer.Stop()
			// A backend cannot be reached: perhaps it has moved. Not more
			// than once a second, though.
			timer = time.NewTimer(max(0, min(time.Second, every)-time.Since(began)))
			select {
			case <-ctx.Done():
			case <-timer.C:
			}
		}
		timer.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

// discoverOnce reports whether it has found backends.
func (b *Balancer) discoverOnce(ctx context.Context) bool {
	list, err := b.callDiscover(ctx)
	if err == nil && len(list) == 0 {
		err = errors.New("it found no backends")
	}
	if err == nil {
		err = b.SetBackends(list...)
	}
	if ctx.Err() != nil {
		return err == nil
	}
	b.mu.Lock()
	was := b.discoverErr
	b.discoverErr = ""
	if err != nil {
		b.discoverErr = err.Error()
	}
	if (was == "") != (err == nil) {
		text := ": discovery works again"
		if err != nil {
			text = ": discovery fails: " + err.Error()
		}
		b.note(b.now(), b.cfg.Name+text)
	}
	b.mu.Unlock()
	return err == nil
}

// callDiscover calls Config.Discover in a goroutine of its own, so that one that
// ends its goroutine does not end discovery.
func (b *Balancer) callDiscover(ctx context.Context) (list []Backend, err error) {
	err = errors.New("it ended its goroutine")
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("it panicked: %v", p)
			}
		}()
		list, err = b.cfg.Discover(ctx)
	}()
	<-done
	return list, err
}

// hintDiscover asks for an early look at what backends there are.
func (b *Balancer) hintDiscover() {
	if b.cfg.Discover == nil {
		return
	}
	select {
	case b.hint <- struct{}{}:
	default:
	}
}

// DNS returns a Discover that looks up the addresses of the host of rawURL, and
// gives one backend for each, with the URL's scheme, port and path, and with
// the host as its TLS name. An https backend's Host header is the host too.
func DNS(rawURL string) Discover {
	return func(ctx context.Context) ([]Backend, error) {
		u, err := url.Parse(rawURL)
		if err != nil {
			return nil, err
		}
		host := u.Hostname()
		addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		if err != nil {
			return nil, err
		}
		var ips []string
		for _, a := range addrs {
			ips = append(ips, a.Unmap().String())
		}
		slices.Sort(ips)
		var list []Backend
		for _, ip := range slices.Compact(ips) {
			v := *u
			if port := u.Port(); port != "" {
				v.Host = net.JoinHostPort(ip, port)
			} else if v.Host = ip; strings.Contains(ip, ":") {
				v.Host = "[" + ip + "]"
			}
			d := Backend{URL: v.String(), ServerName: host}
			if u.Scheme == "https" {
				d.Host = u.Host
			}
			list = append(list, d)
		}
		return list, nil
	}
}

// SRV returns a Discover that looks up the SRV records of a name (RFC 2782),
// such as "_http._tcp.users.internal", and gives one backend for each target,
// with its weight, and with its priority as the tier: the lowest is tier 0.
func SRV(scheme, name string) Discover {
	return func(ctx context.Context) ([]Backend, error) {
		_, records, err := net.DefaultResolver.LookupSRV(ctx, "", "", name)
		if err != nil {
			return nil, err
		}
		return fromSRV(scheme, records), nil
	}
}

func fromSRV(scheme string, records []*net.SRV) []Backend {
	records = slices.Clone(records)
	slices.SortFunc(records, func(x, y *net.SRV) int {
		return strings.Compare(fmt.Sprintf("%05d %s %05d", x.Priority, x.Target, x.Port),
			fmt.Sprintf("%05d %s %05d", y.Priority, y.Target, y.Port))
	})
	var list []Backend
	tier := -1
	for i, r := range records {
		if i == 0 || r.Priority != records[i-1].Priority {
			tier++
		}
		host := strings.TrimSuffix(r.Target, ".")
		list = append(list, Backend{
			URL:    scheme + "://" + net.JoinHostPort(host, strconv.Itoa(int(r.Port))),
			Weight: float64(r.Weight), // 0 means a very small chance there, and 1 here
			Tier:   tier,
		})
	}
	return list
}

// File returns a Discover that reads a JSON array of backends from a file, with
// the field names of [Backend]. An entry may also be just a URL.
func File(path string) Discover {
	return func(context.Context) ([]Backend, error) {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		return parseBackends(data)
	}
}

func parseBackends(data []byte) ([]Backend, error) {
	var entries []json.RawMessage
	if err := json.Unmarshal(data, &entries); err != nil {
		return nil, err
	}
	list := make([]Backend, len(entries))
	for i, e := range entries {
		if err := json.Unmarshal(e, &list[i].URL); err == nil {
			continue
		}
		if err := json.Unmarshal(e, &list[i]); err != nil {
			return nil, fmt.Errorf("entry %d: %w", i, err)
		}
	}
	return list, nil
}
