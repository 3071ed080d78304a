package cache

// A Result is how a request was answered. It is also what Cache-Status says.
type Result int

// The results of a request.
const (
	Miss        Result = iota // the origin answered, and the answer was kept or could have been
	Hit                       // from the cache, fresh
	Stale                     // from the cache, past its freshness
	Revalidated               // from the cache, after the origin confirmed it
	Collapsed                 // from the answer to another request for the same
	Bypass                    // the request or its answer may not be cached
	Failed                    // no answer: a panic, a client that hung up, only-if-cached
)

// String returns the label of r in metrics.
func (r Result) String() string {
	if r < 0 || int(r) >= len(resultNames) {
		return "unknown"
	}
	return resultNames[r]
}

var resultNames = [...]string{"miss", "hit", "stale", "revalidated", "coalesced", "bypass", "error"}

const resultCount = Result(len(resultNames))

// A reason is why a request did not go to the cache, or its answer not into
// it. Its name is the detail in Cache-Status.
type reason uint8

const (
	reasonNone reason = iota
	reasonMethod
	reasonRequestBody
	reasonPrecondition
	reasonUpgrade
	reasonMethodOverride
	reasonMalformed
	reasonRule
	reasonRequestNoStore
	reasonNoStore
	reasonPrivate
	reasonAuthorization
	reasonSetCookie
	reasonCookie
	reasonVary
	reasonStatus
	reasonUnderstand
	reasonNoFreshness
	reasonTooLarge
	reasonAborted
	reasonPurged
	reasonPartial
	reasonClientGone
	reasonTimeout
	reasonCount
)

var reasonNames = [...]string{
	"", "method", "request-body", "precondition", "upgrade", "method-override", "malformed", "rule",
	"request-no-store", "no-store", "private", "authorization", "set-cookie", "cookie", "vary", "status",
	"must-understand", "no-freshness", "too-large", "aborted", "purged", "partial", "client-gone", "timeout",
}

func (r reason) String() string { return reasonNames[r] }

// outcomeCount is how many counters a shard has: one for each result, one for
// each reason.
const outcomeCount = int(resultCount) + int(reasonCount)

// count counts one request.
func (s *shard) count(r Result, why reason) {
	s.counts[r].Add(1)
	if why != reasonNone {
		s.counts[int(resultCount)+int(why)].Add(1)
	}
}
