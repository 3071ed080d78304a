package degrade

import (
	"context"
	"net/http"
	"strconv"
	"strings"
)

// A Priority says how important a request is: when not all can be served, the
// higher ones are. Any number from [Sheddable] to [Critical] may be used;
// numbers beyond them count as the nearest of the two. The zero value is
// [Normal], so that traffic which nobody has marked is not the first to go.
type Priority int

// The usual priorities.
const (
	Sheddable Priority = -100 // may be lost for a while: prefetching, batch work, retries of it
	Normal    Priority = 0    // somebody waits for it
	Critical  Priority = 100  // the service exists for this: checkout, login, payment
)

// Header fields by which one service tells the next what it knows about a
// request. [Shedder.Transport] writes them; [Shedder.Handler] reads them from
// those whom Config.Trust names.
const (
	// PriorityHeader holds critical, normal, sheddable or an integer between.
	PriorityHeader = "Spillway-Priority"
	// TimeoutHeader holds how many milliseconds are left, as an integer.
	TimeoutHeader = "Spillway-Timeout"
)

// String returns critical, normal, sheddable, or the number.
func (p Priority) String() string {
	switch p {
	case Critical:
		return "critical"
	case Normal:
		return "normal"
	case Sheddable:
		return "sheddable"
	}
	return strconv.Itoa(int(p))
}

func (p Priority) clamp() Priority { return min(max(p, Sheddable), Critical) }

// ParsePriority reads what String writes. It reports false for anything else;
// integers beyond the range are brought into it.
func ParsePriority(s string) (Priority, bool) {
	switch {
	case strings.EqualFold(s, "critical"):
		return Critical, true
	case strings.EqualFold(s, "normal"):
		return Normal, true
	case strings.EqualFold(s, "sheddable"):
		return Sheddable, true
	case len(s) == 0 || len(s) > 8:
		return 0, false
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0, false
	}
	return Priority(n).clamp(), true
}

type contextKey int

const (
	priorityKey contextKey = iota
	tenantKey
	snapshotKey
)

// WithPriority returns a context that carries p, for [Shedder.Transport] to
// send to the next service.
func WithPriority(ctx context.Context, p Priority) context.Context {
	return context.WithValue(ctx, priorityKey, p.clamp())
}

// PriorityOf returns the priority that ctx carries, or [Normal]. In a handler
// behind [Shedder.Handler] it is the request's.
func PriorityOf(ctx context.Context) Priority {
	switch p := ctx.Value(priorityKey).(type) {
	case Priority:
		return p
	case *Priority:
		return *p
	}
	return Normal
}

// carrier is the context of a request with a priority, and the request: one
// allocation.
type carrier struct {
	context.Context
	p Priority
	r http.Request
}

// Value returns the priority as a pointer, which costs no allocation.
func (c *carrier) Value(key any) any {
	if key == priorityKey {
		return &c.p
	}
	return c.Context.Value(key)
}

// carry returns r with ctx and p in its context.
func carry(r *http.Request, ctx context.Context, p Priority) *http.Request {
	c := &carrier{Context: ctx, p: p}
	c.r = *r.WithContext(c)
	return &c.r
}

// WithTenant returns a context that names the tenant on whose behalf
// [Shedder.Acquire] is called. It matters when tenants compete: see
// Config.Tenant.
func WithTenant(ctx context.Context, tenant string) context.Context {
	return context.WithValue(ctx, tenantKey, tenant)
}

// maxTimeout bounds what TimeoutHeader may ask for, so that a number from
// outside cannot overflow a duration.
const maxTimeoutMillis = 24 * 60 * 60 * 1000

// parseTimeout reads TimeoutHeader. Zero and below mean that no time is left.
func parseTimeout(s string) (ms int64, ok bool) {
	if len(s) == 0 || len(s) > 12 {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, false
	}
	return min(max(n, 0), maxTimeoutMillis), true
}

// header returns the only value of a field; two values contradict each other
// and count as none.
func header(h http.Header, name string) string {
	if v := h[name]; len(v) == 1 {
		return v[0]
	}
	return ""
}

const adminKey contextKey = 100

func contextWithAdmin(ctx context.Context) context.Context {
	return context.WithValue(ctx, adminKey, true)
}
