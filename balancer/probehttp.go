package balancer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// checkOnce returns nil if e is healthy.
func (b *Balancer) checkOnce(ctx context.Context, e *Endpoint) (err error) {
	cfg := &b.cfg.Probe
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the check panicked: %v", p)
		}
	}()
	if cfg.Check != nil {
		return cfg.Check(ctx, e.Backend())
	}
	req, err := b.probeRequest(ctx, e, http.MethodGet)
	if err != nil {
		return err
	}
	resp, err := e.leaf(b.own(), b.now()).rt.RoundTrip(req)
	if err != nil {
		return plain(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	switch {
	case err != nil:
		return plain(err)
	case resp.Header.Get("Spillway-Draining") == "1":
		return errors.New("it is shutting down")
	case !cfg.Status(resp.StatusCode):
		return fmt.Errorf("status %d", resp.StatusCode)
	case cfg.Contains != "" && !bytes.Contains(body, []byte(cfg.Contains)):
		return fmt.Errorf("the body does not contain %q", cfg.Contains)
	}
	return nil
}

// probeRequest returns a request for Probe.Path, or "/".
func (b *Balancer) probeRequest(ctx context.Context, e *Endpoint, method string) (*http.Request, error) {
	cfg := &b.cfg.Probe
	ref, err := url.ParseRequestURI(firstOf(cfg.Path, "/"))
	if err != nil {
		return nil, err
	}
	u := *e.url
	u.Path, u.RawPath, u.RawQuery = ref.Path, ref.RawPath, ref.RawQuery
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, err
	}
	for k, v := range cfg.Header {
		req.Header[k] = v
	}
	req.Host = firstOf(cfg.Header.Get("Host"), e.Backend().Host, e.Backend().ServerName, u.Host)
	if req.Header.Get("User-Agent") == "" {
		req.Header.Set("User-Agent", "spillway-probe")
	}
	return req, nil
}

// plain shortens the error of a connection to what was wrong with it.
func plain(err error) error {
	if dialFailed(err) {
		return errors.New("cannot connect")
	}
	return err
}
