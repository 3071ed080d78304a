package balancer

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"strings"
	"time"
)

// Sticky keeps a client on one backend: the first response sets a cookie that
// names the backend, and requests with it go there for as long as that backend
// is available. If it is not, or if a retry was needed, the response sets a
// new one. The zero value sets no cookie.
//
// The value is an HMAC of the backend's ID. It says nothing to those who do
// not have the secret, cannot be forged without it, and is the same for every
// process with the same secret and backends.
type Sticky struct {
	// Cookie is the name of the cookie. Required for a sticky pool.
	Cookie string

	// Secret is what the value is signed with, at least 16 bytes. Required.
	Secret []byte

	// MaxAge is how long the client keeps the cookie. Zero means until it
	// closes.
	MaxAge time.Duration

	// Path and Domain are those of the cookie. Empty means "/" and the host.
	Path, Domain string

	// Insecure leaves out the Secure attribute, for services without TLS.
	// The cookie is always HttpOnly and SameSite=Lax.
	Insecure bool
}

func (c *Sticky) check(bad func(string, ...any), period func(string, *time.Duration, time.Duration)) {
	if c.Cookie == "" {
		if len(c.Secret) > 0 {
			bad("Sticky.Cookie is empty, must be a name because Secret is set")
		}
		return
	}
	if err := (&http.Cookie{Name: c.Cookie, Value: "x"}).Valid(); err != nil {
		bad("Sticky.Cookie is %q, must be a name that a cookie can have", c.Cookie)
	}
	if len(c.Secret) < 16 {
		bad("Sticky.Secret has %d bytes, must have at least 16", len(c.Secret))
	}
	if (&http.Cookie{Name: "x", Path: c.Path}).Valid() != nil {
		bad("Sticky.Path is %q, must be a path that a cookie can have", c.Path)
	}
	if (&http.Cookie{Name: "x", Domain: c.Domain}).Valid() != nil {
		bad("Sticky.Domain is %q, must be a domain that a cookie can have", c.Domain)
	}
	period("Sticky.MaxAge", &c.MaxAge, 0)
	if c.Path == "" {
		c.Path = "/"
	}
}

// token returns the value that stands for the backend with an ID.
func (c *Sticky) token(id string) string {
	m := hmac.New(sha256.New, c.Secret)
	m.Write([]byte("spillway sticky backend\x00"))
	m.Write([]byte(id))
	return base64.RawURLEncoding.EncodeToString(m.Sum(nil)[:18])
}

// cookie returns the value of r's sticky cookie, or "".
func (b *Balancer) cookie(r *http.Request) string {
	if r == nil {
		return ""
	}
	return cookieValue(r, b.cfg.Sticky.Cookie)
}

// cookieValue is what r.Cookie does, without an allocation.
func cookieValue(r *http.Request, name string) string {
	for _, line := range r.Header["Cookie"] {
		for line != "" {
			var pair string
			pair, line, _ = strings.Cut(line, ";")
			if k, v, ok := strings.Cut(strings.TrimSpace(pair), "="); ok && k == name {
				return strings.Trim(v, `"`)
			}
		}
	}
	return ""
}

// stick sets the cookie on a response from e, unless r has it.
func (b *Balancer) stick(r *http.Request, resp *http.Response, e *Endpoint) {
	c := &b.cfg.Sticky
	if b.cookie(r) == e.token {
		return
	}
	if resp.Header == nil { // a RoundTripper of somebody's own
		resp.Header = http.Header{}
	}
	resp.Header.Add("Set-Cookie", (&http.Cookie{
		Name:     c.Cookie,
		Value:    e.token,
		Path:     c.Path,
		Domain:   c.Domain,
		MaxAge:   int(c.MaxAge / time.Second),
		Secure:   !c.Insecure,
		HttpOnly: true,
		SameSite: http.SameSiteLaxMode,
	}).String())
}
