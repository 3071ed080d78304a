package ratelimit

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"time"
)

// A snapshot is, in little-endian words of 8 bytes: snapshotMagic, the two
// words of the seed, the time in Unix nanoseconds, and the number of tables;
// for each table the words per entry, and its entries (a hash, then a debt in
// nanoseconds per rate) up to one with the hash 0; then the CRC-32 (IEEE) of
// all that.
const snapshotMagic = 0x31746d6c6c697073 // "spillmt1"

// Snapshot writes the debts in memory to w, 16 bytes for each key in debt, so
// that a deploy does not forgive everybody; see [Limiter.Restore]. Decisions
// go on meanwhile. It contains no keys, but it does contain the seed that they
// are hashed with: who reads it can find keys that collide.
func (l *Limiter) Snapshot(w io.Writer) error {
	m := l.mem.Load()
	buf := bufio.NewWriter(w)
	sum := crc32.NewIEEE()
	out := io.MultiWriter(buf, sum)
	words := make([]byte, 0, 4096)
	put := func(ws ...uint64) {
		for _, x := range ws {
			words = binary.LittleEndian.AppendUint64(words, x)
		}
	}
	now := m.now() // of all debts, however long the writing takes
	put(snapshotMagic, m.seed.a, m.seed.b, uint64(time.Now().UnixNano()), uint64(len(m.tables)))
	for _, t := range m.tables {
		put(uint64(t.width))
		for i := range t.shards {
			t.debts(&t.shards[i], now, put)
			if _, err := out.Write(words); err != nil {
				return fmt.Errorf("ratelimit: Snapshot: %w", err)
			}
			words = words[:0]
		}
		put(0)
	}
	out.Write(words)
	buf.Write(binary.LittleEndian.AppendUint64(nil, uint64(sum.Sum32())))
	if err := buf.Flush(); err != nil {
		return fmt.Errorf("ratelimit: Snapshot: %w", err)
	}
	return nil
}

// debts puts the entries of a shard that are in debt.
func (t *table) debts(sh *shard, now int64, put func(...uint64)) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	s := sh.slots.Load()
	for i := 0; i < len(s.words); i += s.width {
		if h := s.words[i].Load(); h != 0 && !s.past(i+1, s.width-1, now) {
			put(h)
			for j := 1; j < s.width; j++ {
				put(uint64(max(0, int64(s.words[i+j].Load())-now) / ticksPerNano))
			}
		}
	}
}

// Restore reads what Snapshot wrote, less the time that has passed since by
// the system's clocks. It is to be called before the limiter decides anything:
// debts made before it are lost. The limiter needs as many rates and groups as
// the one that wrote the snapshot; debts are cut to what its rates allow. If
// there is an error, nothing has changed.
func (l *Limiter) Restore(r io.Reader) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return fmt.Errorf("ratelimit: Restore: %w", err)
	}
	m, err := l.parse(data)
	if err != nil {
		return fmt.Errorf("ratelimit: Restore: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mem.Store(m)
	if l.cfg.RateOf == nil {
		m.cut(l.plan.Load().limits)
	}
	return nil
}

var errSnapshot = errors.New("not a whole snapshot")

// parse makes a memory of a snapshot.
func (l *Limiter) parse(data []byte) (*memory, error) {
	if len(data)%8 != 0 || len(data) < 6*8 {
		return nil, errSnapshot
	}
	body, end := data[:len(data)-8], data[len(data)-8:]
	if uint64(crc32.ChecksumIEEE(body)) != binary.LittleEndian.Uint64(end) {
		return nil, errSnapshot
	}
	rest := bytes.NewReader(body)
	next := func() (x uint64) {
		if binary.Read(rest, binary.LittleEndian, &x) != nil {
			x = 0
		}
		return x
	}
	if next() != snapshotMagic {
		return nil, errSnapshot
	}
	own := len(l.plan.Load().limits)
	m := newMemory(own, len(l.groups), l.cfg.MaxKeys)
	m.seed = seed{next(), next()}
	passed := max(0, time.Since(time.Unix(0, int64(next()))))
	if tables := next(); tables != uint64(len(m.tables)) {
		return nil, fmt.Errorf("the snapshot has %d groups, Config.Groups has %d", int64(tables)-1, len(l.groups))
	}
	now := m.now()
	for i, t := range m.tables {
		if width := next(); width != uint64(t.width) {
			return nil, fmt.Errorf("table %d of the snapshot has %d rates, the limiter has %d", i, int64(width)-1, t.width-1)
		}
		debts := make([]int64, t.width-1)
		for h := next(); h != 0; h = next() {
			owed := int64(0)
			for j := range debts {
				d := min(max(int64(next()), 0), maxDebt/ticksPerNano)
				debts[j] = max(0, d-int64(passed)) * ticksPerNano
				owed = max(owed, debts[j])
			}
			if owed > 0 {
				t.restore(h, now, debts)
			}
		}
	}
	return m, nil
}

// restore puts an entry into a table that nobody uses yet.
func (t *table) restore(h uint64, now int64, debts []int64) {
	sh := t.shard(h)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	t.closeLocked(sh, h, sh.slots.Load().find(h), now, debts)
}
