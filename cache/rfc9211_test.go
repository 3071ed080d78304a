package cache_test

import "github.com/go-spillway/spillway/cache"

// moreRules are those that are easily forgotten, and those of RFC 9211 and 9213.
var moreRules = []rule{
	{section: "9111 §3", says: "s-maxage says nothing to a private cache", private: true, steps: []step{
		{status: 403, say: "Cache-Control: s-maxage=60|Last-Modified: {-24h}", want: "origin"}, {want: "origin"}}},
	{section: "9111 §3", says: "private makes any status storable in a private cache", private: true, steps: []step{
		{status: 403, say: `Cache-Control: private|Etag: "a"`, want: "origin"}, {conf: true, want: "origin", code: 403}}},
	{section: "9111 §4.3.1", says: "a client's own tag is compared when the origin has confirmed", steps: []step{
		{say: `Cache-Control: max-age=1|Etag: "a"`, want: "origin"},
		{wait: 2 * sec, ask: `If-None-Match: "old"`, conf: true, want: "origin", code: 200, sent: `If-None-Match: "a"`},
		{wait: 2 * sec, ask: `If-None-Match: "old", "a"`, conf: true, want: "origin", code: 304, sent: `If-None-Match: "a"`}}},
	{section: "9111 §4.3.1", says: "a client's own condition waits until the response is there", steps: []step{
		{ask: `If-None-Match: "a"|If-Modified-Since: {0s}`, say: `Cache-Control: max-age=60|Etag: "a"`, want: "origin", code: 304},
		{want: "cache", code: 200, has: `Etag: "a"`}}},
	{section: "9111 §4.3.3", says: "an error that names another version changes nothing", steps: []step{
		{say: `Cache-Control: max-age=1|Etag: "a"`, want: "origin"}, {wait: 2 * sec, status: 500, say: `Etag: "b"|Cache-Control: no-store`, want: "origin", code: 500},
		{conf: true, want: "origin", code: 200, sent: `If-None-Match: "a"`}}},
	{section: "9111 §5.2", says: "an answer keeps the directives it came with", steps: []step{
		{say: `Cache-Control: max-age=60, foo="bar"|Cache-Control: no-transform|CDN-Cache-Control: max-age=90`, want: "origin"},
		{want: "cache", has: `Cache-Control: max-age=60, foo="bar"|Cache-Control: no-transform|CDN-Cache-Control: max-age=90`}}},
	{section: "9111 §5.2.2.4", says: "no-cache with an empty list is no-cache", steps: two(`Cache-Control: max-age=60, no-cache=""`, "origin")},
	{section: "9111 §5.2.2.4", says: "no-cache with a list that is not quoted holds back that field", steps: []step{
		{say: `Cache-Control: max-age=60, no-cache=a|A: 1`, want: "origin"}, {want: "cache", hasNot: "A"}}},
	{section: "9111 §5.2.2.4", says: "no-cache with and without a list is no-cache", steps: two(`Cache-Control: max-age=60, no-cache="a"|Cache-Control: no-cache`, "origin")},
	{section: "9111 §5.2.2.7", says: "private with an empty list is private", steps: two(`Cache-Control: max-age=60, private=""`, "origin")},
	{section: "9111 §5.2.2.9", says: "public does not go over no-store", steps: two("Cache-Control: public, max-age=60, no-store", "origin")},
	{section: "9111 §5.2.2.10", says: "an s-maxage that is malformed counts as stale", steps: two("Cache-Control: s-maxage=x, max-age=60", "origin")},
	{section: "9111 §5.3", says: "without a Date the time it came counts", steps: []step{
		{say: "Expires: {1m}", want: "origin"}, {wait: 59 * sec, want: "cache"}, {wait: 2 * sec, want: "origin"}}},
	{section: "9111 §5.3", says: "a Date that is no date counts as none", steps: two("Expires: {1m}|Date: foo", "cache")},
	{section: "9110 §6.6.1", says: "what came without a Date is given one", steps: []step{
		{say: "Cache-Control: max-age=60", want: "origin"}, {wait: 7 * sec, want: "cache", has: "Date: {-7s}"}}},
	{section: "9110 §6.6.1", says: "a Date is not changed", steps: []step{
		{say: "Cache-Control: max-age=60|Date: {-3s}", want: "origin"}, {wait: 7 * sec, want: "cache", has: "Date: {-10s}|Age: 10"}}},
	{section: "9110 §13.1.3", says: "If-Modified-Since takes all three forms of a date", steps: []step{
		{say: `Cache-Control: max-age=60|Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT`, want: "origin"},
		{ask: `If-Modified-Since: Sunday, 06-Nov-94 08:49:37 GMT`, want: "304"}, {ask: `If-Modified-Since: Sun Nov  6 08:49:37 1994`, want: "304"},
		{ask: `If-Modified-Since: Sun Nov  6 08:49:36 1994`, want: "cache"}}},

	{section: "9211 §2", says: "a hit says so, after what the caches before it said", steps: []step{
		{say: `Cache-Control: max-age=60|Cache-Status: "up"; hit`, want: "origin", has: `Cache-Status: "up"; hit|Cache-Status: Spillway; fwd=uri-miss; stored`},
		{wait: 9 * sec, want: "cache", has: `Cache-Status: "up"; hit|Cache-Status: Spillway; hit; ttl=51`}}},
	{section: "9211 §2.2", says: "a forward says why", steps: []step{
		{say: `Cache-Control: max-age=1|Etag: "a"`, want: "origin"},
		{wait: 2 * sec, conf: true, want: "origin", code: 200, has: "Cache-Status: Spillway; fwd=stale; fwd-status=304; stored"},
		{method: "POST", want: "origin"},
		{say: "Cache-Control: private", want: "origin", has: "Cache-Status: Spillway; fwd=uri-miss; detail=private"}}},
	{section: "9211 §2.2", says: "another variant is a vary-miss", steps: []step{
		{ask: "Foo: 1", say: "Cache-Control: max-age=60|Vary: Foo", want: "origin", has: "Cache-Status: Spillway; fwd=uri-miss; stored"},
		{ask: "Foo: 2", say: "Cache-Control: max-age=60|Vary: Foo", want: "origin", has: "Cache-Status: Spillway; fwd=vary-miss; stored"}}},
	{section: "9211 §2", says: "the name is a string if it is no token", cfg: cache.Config{StatusName: `my "cache"`}, steps: []step{
		{want: "origin", has: `Cache-Status: "my \"cache\""; fwd=uri-miss; detail=no-freshness`}}},
	{section: "9213 §2.2", says: "a targeted field goes before Cache-Control and Expires", steps: two("CDN-Cache-Control: max-age=60|Cache-Control: no-store|Expires: 0", "cache")},
	{section: "9213 §2.2", says: "it goes before them when it restricts", steps: two("CDN-Cache-Control: max-age=0|Cache-Control: max-age=60|Expires: {1h}", "origin")},
	{section: "9213 §2.2", says: "an invalid one is ignored whole", steps: two("CDN-Cache-Control: max-age=60, &&&|Cache-Control: no-store", "origin")},
	{section: "9213 §2.2", says: "an empty one is ignored", steps: two("CDN-Cache-Control: |Cache-Control: max-age=60", "cache")},
	{section: "9213 §2.1", says: "a value of the wrong type is ignored", steps: two(`CDN-Cache-Control: max-age="60"|Cache-Control: max-age=60`, "origin")},
	{section: "9213 §2.1", says: "parameters are ignored", steps: two("CDN-Cache-Control: max-age=60;foo=bar, ext;a", "cache")},
	{section: "9213 §2.1", says: "keys are in lower case", steps: two("CDN-Cache-Control: Max-Age=60|Cache-Control: max-age=0", "origin")},
	{section: "9213 §2.2", says: "the first of the targets that is valid counts", cfg: cache.Config{Targets: []string{"Mine-Cache-Control", "CDN-Cache-Control"}},
		steps: two("Mine-Cache-Control: max-age=60|CDN-Cache-Control: no-store", "cache")},
	{section: "9213 §2", says: "a private cache ignores it", private: true, steps: two("CDN-Cache-Control: max-age=60|Cache-Control: no-store", "origin")},
	{section: "9211 §2.2", says: "fwd=request is what the client wanted", steps: []step{
		{say: "Cache-Control: max-age=60", want: "origin"},
		{ask: "Cache-Control: no-cache", say: "Cache-Control: max-age=60", want: "origin", has: "Cache-Status: Spillway; fwd=request; stored"}}},
	{section: "9211 §2.2", says: "fwd=method is the method", steps: []step{
		{method: "DELETE", want: "origin", has: "Cache-Status: Spillway; fwd=method"},
		{method: "OPTIONS", want: "origin", has: "Cache-Status: Spillway; fwd=method"}}},
	{section: "9211 §2.2", says: "fwd=bypass is what the cache must not touch", steps: []step{
		{ask: "Cache-Control: no-store", want: "origin", has: "Cache-Status: Spillway; fwd=bypass; detail=request-no-store"}}},
	{section: "9211 §2.4", says: "ttl is negative when the response is stale", steps: []step{
		{say: "Cache-Control: max-age=1", want: "origin"},
		{wait: 9 * sec, ask: "Cache-Control: max-stale", want: "cache", has: "Cache-Status: Spillway; hit; ttl=-8"}}},
	{section: "9211 §2", says: "an answer that is the cache's own says nothing", steps: []step{
		{ask: "Cache-Control: only-if-cached", want: "cache", code: 504, hasNot: "Cache-Status"}}},
	{section: "9213 §2.1", says: "several lines are one dictionary, and the last value counts", steps: two("CDN-Cache-Control: max-age=0, foo|CDN-Cache-Control: max-age=60", "cache")},
	{section: "9213 §2.1", says: "a false directive is none", steps: two("CDN-Cache-Control: max-age=60, no-store=?0", "cache")},
	{section: "9213 §2.1", says: "a true directive is one", steps: two("CDN-Cache-Control: max-age=60, no-store=?1", "origin")},
	{section: "9213 §2.1", says: "no-cache takes a list of names", steps: []step{
		{say: `CDN-Cache-Control: max-age=60, no-cache="a"|A: 1|B: 1`, want: "origin"}, {want: "cache", hasNot: "A", has: "B: 1"}}},
	{section: "9213 §2.2", says: "when it says nothing of freshness, Cache-Control and Expires still say nothing", steps: two("CDN-Cache-Control: public|Cache-Control: max-age=60|Expires: {1h}", "origin")},
	{section: "9213 §2.2", says: "private in it is private", steps: two("CDN-Cache-Control: private, max-age=60|Cache-Control: max-age=60", "origin")},
	{section: "9213 §2.2", says: "Authorization goes by it, too", steps: []step{
		{ask: "Authorization: x", say: "CDN-Cache-Control: max-age=60|Cache-Control: public", want: "origin"}, {want: "origin"}}},
	{section: "9213 §2.2", says: "must-revalidate in it forbids stale", steps: []step{
		{say: "CDN-Cache-Control: max-age=1, must-revalidate|Cache-Control: stale-if-error=60", want: "origin"}, {wait: 2 * sec, status: 503, want: "origin", code: 503}}},
}
