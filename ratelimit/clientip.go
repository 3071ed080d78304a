package ratelimit

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
)

// ClientIP returns a KeyFunc that names the client's address.
//
// Without arguments that is the TCP peer, and all header fields are ignored,
// since a client can send what it likes. Behind proxies, pass the prefixes
// that they connect from: X-Forwarded-For is then read from right to left, and
// the first address outside the prefixes is the client. What a stranger sends
// stands further left and is never reached.
//
// An IPv6 address is cut to its /64, all of which one client can use. An
// IPv4 address mapped into IPv6 is the IPv4 address. A peer without an
// address, such as one on a Unix socket, is nobody: "".
//
// See [NewClientIP] for other fields and widths.
func ClientIP(proxies ...netip.Prefix) KeyFunc {
	key, err := NewClientIP(ClientIPConfig{Proxies: proxies})
	if err != nil {
		panic(err) // an invalid Prefix
	}
	return key
}

// ClientIPConfig configures [NewClientIP].
type ClientIPConfig struct {
	// Proxies are the prefixes that trusted proxies connect from. None means
	// that header fields are ignored.
	Proxies []netip.Prefix

	// LocalProxy trusts a peer that has no address, as on a Unix socket.
	LocalProxy bool

	// Field is where the proxies say whom they act for. Default
	// "X-Forwarded-For". "Forwarded" is read by RFC 7239. Any other, such as
	// "CF-Connecting-IP", must hold one address, set by the proxy that
	// connects to us, which must remove what a client sent there.
	Field string

	// IPv4Bits and IPv6Bits are how much of an address names a client.
	// Default 32 and 64. For a looser limit on a wider group, make a second
	// KeyFunc with IPv6Bits 48 and use it in Config.Groups.
	IPv4Bits, IPv6Bits int
}

// NewClientIP is [ClientIP] with more to choose. It returns an error that
// names every field of cfg that is not valid.
func NewClientIP(cfg ClientIPConfig) (KeyFunc, error) {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("ratelimit: ClientIPConfig."+format, args...))
	}
	c := &clientIP{cfg: cfg}
	c.cfg.Proxies = nil
	for i, p := range cfg.Proxies {
		if !p.IsValid() {
			bad("Proxies[%d] is not a valid prefix", i)
			continue
		}
		if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 { // addresses are compared unmapped
			p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
		}
		c.cfg.Proxies = append(c.cfg.Proxies, p.Masked())
	}
	if cfg.IPv4Bits < 0 || cfg.IPv4Bits > 32 {
		bad("IPv4Bits is %d, must be between 1 and 32", cfg.IPv4Bits)
	}
	if cfg.IPv6Bits < 0 || cfg.IPv6Bits > 128 {
		bad("IPv6Bits is %d, must be between 1 and 128", cfg.IPv6Bits)
	}
	if cfg.IPv4Bits == 0 {
		c.cfg.IPv4Bits = 32
	}
	if cfg.IPv6Bits == 0 {
		c.cfg.IPv6Bits = 64
	}
	switch c.cfg.Field = http.CanonicalHeaderKey(cfg.Field); c.cfg.Field {
	case "", "X-Forwarded-For":
		c.cfg.Field, c.walk = "X-Forwarded-For", true
	case "Forwarded":
		c.walk, c.rfc7239 = true, true
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return c.key, nil
}

type clientIP struct {
	cfg     ClientIPConfig
	walk    bool // Field is a list with one element per hop
	rfc7239 bool
	names   [256]atomic.Pointer[prefixName]
}

// A prefixName is a prefix and its text, kept so that a client's next request
// need not write it again.
type prefixName struct {
	prefix netip.Prefix
	text   string
}

func (c *clientIP) key(r *http.Request) string {
	host := peerHost(r.RemoteAddr)
	if len(c.cfg.Proxies) == 0 && c.cfg.IPv4Bits == 32 && isIPv4(host) {
		return host // and nothing else matters
	}
	addr, ok := parseAddr(host)
	if !ok && !c.cfg.LocalProxy {
		return ""
	}
	if c.trusts(addr) {
		addr, host = c.client(r.Header[c.cfg.Field], addr, host)
	}
	switch {
	case !addr.IsValid():
		return ""
	case addr.Is4() && c.cfg.IPv4Bits == 32 && !strings.ContainsAny(host, ":["):
		return host // the one way to write it, or it would not have parsed
	case addr.Is4() && c.cfg.IPv4Bits == 32:
		return addr.String()
	case addr.Is4():
		return c.name(addr, c.cfg.IPv4Bits)
	default:
		return c.name(addr, c.cfg.IPv6Bits)
	}
}

// trusts reports whether what the peer at addr says of others is true. The
// peer without an address has the zero Addr.
func (c *clientIP) trusts(addr netip.Addr) bool {
	if !addr.IsValid() {
		return c.cfg.LocalProxy
	}
	for _, p := range c.cfg.Proxies {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// client follows values from the right, starting at the trusted peer, to the
// first address that is not a trusted proxy's, and returns it with the text
// that it was read from. An element that is not an address ends the walk at
// the proxy that reported it, whose bucket all such requests share.
func (c *clientIP) client(values []string, addr netip.Addr, text string) (netip.Addr, string) {
	if !c.walk {
		if len(values) == 1 {
			if a, ok := parseNode(values[0]); ok {
				return a, strings.Trim(values[0], " \t")
			}
		}
		return addr, text
	}
	for i := len(values) - 1; i >= 0; i-- {
		rest, more := values[i], true
		for more {
			var hop string
			if c.rfc7239 {
				rest, hop, more = lastForwarded(rest)
			} else if comma := strings.LastIndexByte(rest, ','); comma >= 0 {
				rest, hop = rest[:comma], rest[comma+1:]
			} else {
				hop, more = rest, false
			}
			hop = strings.Trim(hop, " \t")
			next, ok := parseNode(hop)
			if !ok {
				return addr, text
			}
			if addr, text = next, hop; !c.trusts(addr) {
				return addr, text
			}
		}
	}
	return addr, text
}

// name returns the text of addr's prefix.
func (c *clientIP) name(addr netip.Addr, bits int) string {
	p, err := addr.Prefix(bits)
	if err != nil {
		return ""
	}
	b := p.Addr().As16()
	h := binary.BigEndian.Uint64(b[:8])*0x9e3779b97f4a7c15 ^ binary.BigEndian.Uint64(b[8:])
	slot := &c.names[h*0x9e3779b97f4a7c15>>56]
	if n := slot.Load(); n != nil && n.prefix == p {
		return n.text
	}
	n := &prefixName{p, p.String()}
	slot.Store(n)
	return n.text
}

// peerHost cuts the port, the brackets and the zone off a RemoteAddr.
func peerHost(remote string) string {
	colon := strings.LastIndexByte(remote, ':')
	if colon < 0 {
		return remote
	}
	host := remote[:colon]
	if len(host) >= 2 && host[0] == '[' && host[len(host)-1] == ']' {
		return host[1 : len(host)-1]
	}
	return host
}

// isIPv4 reports whether s is an IPv4 address, written in the one way that
// netip.ParseAddr takes too, three times as fast as that.
func isIPv4(s string) bool {
	if len(s) > len("255.255.255.255") {
		return false
	}
	dots, n, digits := 0, 0, 0
	for i := range len(s) {
		switch c := s[i]; {
		case c >= '0' && c <= '9':
			if digits > 0 && n == 0 { // a leading zero
				return false
			}
			digits++
			if n = n*10 + int(c-'0'); n > 255 {
				return false
			}
		case c == '.' && digits > 0:
			dots++
			n, digits = 0, 0
		default:
			return false
		}
	}
	return dots == 3 && digits > 0
}

// parseAddr parses an address without its zone, unmapped.
func parseAddr(s string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}, false
	}
	return a.Unmap().WithZone(""), true
}

// parseNode parses an address that a proxy has written: bare, in brackets, or
// with a port.
func parseNode(s string) (netip.Addr, bool) {
	if s = strings.Trim(s, " \t"); len(s) > 64 {
		return netip.Addr{}, false
	}
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		if end < 0 || end+1 < len(s) && s[end+1] != ':' {
			return netip.Addr{}, false
		}
		return parseAddr(s[1:end])
	}
	if host, _, ok := strings.Cut(s, ":"); ok && strings.Count(s, ":") == 1 {
		s = host
	}
	return parseAddr(s)
}
