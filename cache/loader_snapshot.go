package cache

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const (
	loaderSnapshotHead = "spillway loader snapshot 1\n"
	loaderSnapshotMore = 1 // before each entry
	loaderSnapshotEnd  = 0 // after the last
)

// Save writes what is in memory to w, so that a process can begin with it: see
// [Loader.Restore]. Negative answers and kept errors are left out. It returns
// how many values it wrote. Keys are written with encoding/json unless they are
// strings, values with [LoaderConfig.Encode]. The Loader can be used meanwhile.
func (l *Loader[K, V]) Save(w io.Writer) (int, error) {
	out := bufio.NewWriter(w)
	_, _ = out.WriteString(loaderSnapshotHead)
	n := 0
	for i := range l.shards {
		for _, e := range l.shards[i].values(l.now()) {
			key, err := l.keys.encode(e.key)
			if err != nil {
				return n, fmt.Errorf("cache: snapshot of %s: %w", l.cfg.Name, err)
			}
			data, err := l.pack(e)
			if err != nil {
				return n, fmt.Errorf("cache: snapshot of %s: %w", l.cfg.Name, err)
			}
			_ = out.WriteByte(loaderSnapshotMore)
			loaderWriteBlock(out, []byte(key))
			loaderWriteBlock(out, data)
			n++
		}
	}
	_ = out.WriteByte(loaderSnapshotEnd)
	return n, out.Flush() // which returns the first error of all these
}

// Restore reads what [Loader.Save] wrote, and keeps what is still of use and not
// in memory yet. Times to live go on from where they were, by the wall clock. It
// returns how many values it kept. Call it before the first Get.
//
// An error means that the end is missing or damaged. What came before it is
// kept.
func (l *Loader[K, V]) Restore(r io.Reader) (int, error) {
	in := bufio.NewReader(r)
	n := 0
	fail := func(err error) (int, error) {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return n, fmt.Errorf("cache: snapshot of %s: after %d values: %w", l.cfg.Name, n, err)
	}
	head := make([]byte, len(loaderSnapshotHead))
	if _, err := io.ReadFull(in, head); err != nil || string(head) != loaderSnapshotHead {
		return 0, fmt.Errorf("cache: snapshot of %s: it doesn't begin like one", l.cfg.Name)
	}
	for {
		switch mark, err := in.ReadByte(); {
		case err != nil:
			return fail(err)
		case mark == loaderSnapshotEnd:
			return n, nil
		case mark != loaderSnapshotMore:
			return fail(errors.New("damaged"))
		}
		text, err := loaderReadBlock(in)
		if err != nil {
			return fail(err)
		}
		data, err := loaderReadBlock(in)
		if err != nil {
			return fail(err)
		}
		key, err := l.keys.decode(string(text))
		if err != nil {
			return fail(err)
		}
		hash := l.hash(key)
		e := l.unpack(key, hash, data)
		if e == nil {
			continue // expired meanwhile, or of another format
		}
		s := l.shard(hash)
		s.mu.Lock()
		if s.index.find(hash, key) == nil {
			l.keep(s, key, hash, e)
			n++
		}
		l.unlock(s)
	}
}

func loaderWriteBlock(w *bufio.Writer, data []byte) {
	_, _ = w.Write(binary.AppendUvarint(nil, uint64(len(data))))
	_, _ = w.Write(data)
}

// loaderReadBlock reads no more than there is, whatever length the block claims
// to have.
func loaderReadBlock(r *bufio.Reader) ([]byte, error) {
	size, err := binary.ReadUvarint(r)
	if err != nil {
		return nil, err
	}
	if size > 1<<31 {
		return nil, errors.New("damaged")
	}
	var data bytes.Buffer
	if _, err := io.CopyN(&data, r, int64(size)); err != nil {
		return nil, err
	}
	return data.Bytes(), nil
}
