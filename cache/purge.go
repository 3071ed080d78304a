package cache

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// A Target says what [Cache.Purge] removes. [URL], [Prefix], [Tag] and [All]
// make one.
type Target struct {
	kind  byte
	value string
	soft  bool
}

// URL is every stored response to a URL: all variants, all partitions, those
// for https as well as http. It must be absolute.
func URL(url string) Target { return Target{kind: 'u', value: url} }

// Prefix is every stored response whose URL begins with prefix: scheme, host,
// path as it was sent. It must be absolute; for every URL there is [All]. The
// scheme is that of the connection: http where a proxy in front has ended TLS.
func Prefix(prefix string) Target { return Target{kind: 'p', value: prefix} }

// Tag is every stored response that carries tag in one of
// [Config.TagHeaders]. Tags match exactly.
func Tag(tag string) Target { return Target{kind: 't', value: tag} }

// All is every stored response.
func All() Target { return Target{kind: 'a'} }

// Soft returns a Target that marks what t names as stale instead of removing
// it: it is validated before it is used again, or used while that happens or
// when it fails, as far as stale-while-revalidate and stale-if-error allow.
func (t Target) Soft() Target {
	t.soft = true
	return t
}

// String says what t is.
func (t Target) String() string {
	s := map[byte]string{'u': "URL ", 'p': "prefix ", 't': "tag ", 'a': "everything"}[t.kind] + t.value
	if t.soft {
		s += ", softly"
	}
	return s
}

// Purge removes the stored responses that each of targets names. What is being
// fetched while Purge runs is not stored: once Purge has returned, no request
// gets what it has named. Config.Store is told as well, where Prefix counts as
// All, since a store can't tell which of its keys begin alike: name URLs or
// tags where that costs too much. An error says that the store may still hold what
// was purged, and that other processes may take it from there. Their memory is
// not reached: purge there too.
func (c *Cache) Purge(ctx context.Context, targets ...Target) error {
	var errs []error
	for _, t := range targets {
		n := 0
		switch t.kind {
		case 'u':
			u, err := url.Parse(t.value)
			if err != nil || u.Host == "" {
				errs = append(errs, fmt.Errorf("cache: Purge: URL %q is not absolute", t.value))
				continue
			}
			host := hostOf(u.Host, u.Scheme)
			for _, scheme := range []string{"http", "https"} {
				u := *u
				u.Scheme, u.Host = scheme, host
				errs = append(errs, c.mark(ctx, "url", c.keys.url(&u)))
				for _, realm := range []byte{realmHandler, realmPrivate, realmShared} {
					n += c.purgeURL(&u, realm, t.soft, nil)
				}
			}
		case 'p':
			prefix, ok := keyPrefix(t.value)
			if !ok {
				errs = append(errs, fmt.Errorf("cache: Purge: Prefix %q is not absolute", t.value))
				continue
			}
			errs = append(errs, c.mark(ctx, "all")) // a store can't tell what begins with what
			n = c.purgeAll(func(key string) bool { return strings.HasPrefix(key[1:], prefix) }, t.soft)
		case 't':
			errs = append(errs, c.mark(ctx, "tag", t.value))
			n = c.purgeTag(t.value, t.soft, nil)
		case 'a':
			errs = append(errs, c.mark(ctx, "all"))
			n = c.purgeAll(func(string) bool { return true }, t.soft)
		default:
			errs = append(errs, errors.New("cache: Purge: empty Target"))
			continue
		}
		c.changed(fmt.Sprintf("purged %v: %d responses", t, n))
	}
	return errors.Join(errs...)
}

// keyPrefix returns the start of a URL as it is in keys. ok is false if none
// begins like that, for want of a scheme or a host.
func keyPrefix(prefix string) (in string, ok bool) {
	scheme, rest, _ := strings.Cut(prefix, "://")
	host, path, whole := strings.Cut(rest, "/")
	if !isToken(scheme) || host == "" {
		return "", false
	}
	scheme = strings.ToLower(scheme)
	if !whole { // nor is the port
		return scheme + "://" + hostOf(host, ""), true
	}
	return scheme + "://" + hostOf(host, scheme) + "/" + path, true
}

// mark tells the processes that share the store of a purge. It comes before the
// memory's own, or else a request between the two would take what is purged
// back from the store.
func (c *Cache) mark(ctx context.Context, parts ...string) error {
	if c.tier == nil {
		return nil
	}
	if err := c.tier.mark(ctx, parts...); err != nil {
		return fmt.Errorf("cache: Purge: the store may keep it: %w", err)
	}
	return nil
}

// purgeURL removes the entries of a URL. The answer that is the reason, if it
// is itself on its way to be stored, is spared.
func (c *Cache) purgeURL(u *url.URL, realm byte, soft bool, spared *flight) int {
	key := string(realm) + c.keys.url(u)
	n := c.purgeKey(key, soft, spared)
	if c.keys.extras.Load() {
		// Some keys have more to them than the URL.
		n += c.purgeTag(key+"\x00", soft, spared)
	}
	return n
}

// purgeKey removes the entries of one key, and dooms its flights: what was
// asked for before this moment will not be kept.
func (c *Cache) purgeKey(key string, soft bool, spared *flight) int {
	hash := c.keys.hash([]byte(key))
	s := c.shard(hash)
	s.mu.Lock()
	var found []*entry
	for e := s.index.get(hash); e != nil; e = e.chain.Load() {
		if e.key == key {
			found = append(found, e)
		}
	}
	for f := s.flights[hash]; f != nil; f = f.next {
		f.doomed = f.doomed || f.key == key && f != spared
	}
	s.unfit.Remove(hash)
	c.purgeLocked(s, found, soft)
	s.mu.Unlock()
	return c.purged(found, soft)
}

// purgeAll removes every entry that match accepts.
func (c *Cache) purgeAll(match func(key string) bool, soft bool) (n int) {
	for _, s := range c.shards {
		s.mu.Lock()
		var found []*entry
		for _, head := range s.entries {
			for e := head; e != nil; e = e.chain.Load() {
				if match(e.key) {
					found = append(found, e)
				}
			}
		}
		for _, f := range s.flights {
			for ; f != nil; f = f.next {
				f.doomed = f.doomed || match(f.key)
			}
		}
		s.unfit.Purge()
		c.purgeLocked(s, found, soft)
		s.mu.Unlock()
		n += c.purged(found, soft)
	}
	return n
}

// purgeTag removes every entry that carries tag, exactly.
func (c *Cache) purgeTag(tag string, soft bool, spared *flight) (n int) {
	for _, s := range c.shards {
		s.mu.Lock()
		found := make([]*entry, 0, len(s.tags[tag]))
		for e := range s.tags[tag] {
			found = append(found, e)
		}
		for _, f := range s.flights {
			for ; f != nil; f = f.next {
				if f != spared {
					f.purgeTagLocked(tag)
				}
			}
		}
		c.purgeLocked(s, found, soft)
		s.mu.Unlock()
		n += c.purged(found, soft)
	}
	return n
}

// maxDeadTags is how many tags may be purged while a flight waits for its
// header. With more of them its response is not kept, whatever it carries.
const maxDeadTags = 256

// purgeTagLocked dooms f if its response carries tag, or lets the tag wait until
// that is known. Nobody joins what is doomed, so that no more tags matter to it.
func (f *flight) purgeTagLocked(tag string) {
	switch {
	case f.doomed:
	case f.entry != nil:
		f.doomed = f.entry.hasTag([]string{tag})
	case urlTag(f.key) == tag:
		f.doomed = true
	case f.settled || strings.HasSuffix(tag, "\x00"): // nothing will be kept, or it is another URL's
	case slices.Contains(f.deadTags, tag):
	case len(f.deadTags) == maxDeadTags:
		f.doomed = true
	default:
		f.deadTags = append(f.deadTags, tag)
	}
}

// stalePurged reports whether what f would replace was purged, and must not
// stand in for it either.
func (f *flight) stalePurged() bool {
	f.shard.mu.Lock()
	defer f.shard.mu.Unlock()
	return f.stalePurgedLocked()
}

func (f *flight) stalePurgedLocked() bool {
	return f.stale.gone.Load() && (f.doomed || f.stale.hasTag(f.deadTags))
}

func (c *Cache) purgeLocked(s *shard, found []*entry, soft bool) {
	now := c.now()
	s.purged = now
	for _, e := range found {
		if soft {
			e.softened.CompareAndSwap(0, max(1, int64(now)))
		} else {
			s.unlinkLocked(e)
		}
	}
}

func (c *Cache) purged(found []*entry, soft bool) int {
	if !soft {
		for _, e := range found {
			c.policy.remove(e)
		}
	}
	return len(found)
}
