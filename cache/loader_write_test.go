package cache_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/cache"
)

func TestLoaderDeleteWinsOverALoadInFlight(t *testing.T) {
	src := &loaderSource{slow: time.Second}
	loaderBubble(t, src, cache.LoaderConfig[string, string]{}, func(t *testing.T, l *cache.Loader[string, string]) {
		old := make(chan string, 1)
		go func() { old <- loaderGet(t, l, "a") }()
		synctest.Wait()
		require.NoError(t, l.Delete(t.Context(), "a"))
		require.Equal(t, "a#2", loaderGet(t, l, "a"), "asks anew and doesn't join the old load")
		require.Equal(t, "a#1", <-old, "who asked before is given what came")
		require.Equal(t, "a#2", loaderGet(t, l, "a"))
		require.EqualValues(t, 2, src.asked.Load())
	})
}

func TestLoaderSetWinsOverALoadInFlight(t *testing.T) {
	src := &loaderSource{slow: time.Second}
	loaderBubble(t, src, cache.LoaderConfig[string, string]{}, func(t *testing.T, l *cache.Loader[string, string]) {
		go func() { _, _ = l.Get(t.Context(), "a") }()
		synctest.Wait()
		require.NoError(t, l.Set(t.Context(), "a", "mine"))
		time.Sleep(2 * time.Second)
		require.Equal(t, "mine", loaderGet(t, l, "a"))
		v, ok := l.Peek("a")
		require.True(t, ok)
		require.Equal(t, "mine", v)
	})
}

func TestLoaderDeleteWinsOverAReloadInFlight(t *testing.T) {
	src := &loaderSource{}
	cfg := cache.LoaderConfig[string, string]{TTL: time.Minute, StaleFor: time.Hour}
	loaderBubble(t, src, cfg, func(t *testing.T, l *cache.Loader[string, string]) {
		loaderGet(t, l, "a")
		time.Sleep(time.Minute)
		src.slow = time.Second
		loaderGet(t, l, "a") // starts the reload
		synctest.Wait()
		require.NoError(t, l.Delete(t.Context(), "a"))
		time.Sleep(time.Second)
		synctest.Wait()
		_, ok := l.Peek("a")
		require.False(t, ok, "the reload was of the time before Delete")
	})
}

func TestLoaderDeleteTagsForgetsAllThatHaveOne(t *testing.T) {
	src := &loaderSource{}
	cfg := cache.LoaderConfig[string, string]{Tags: func(key, _ string) []string { return []string{key[:1], key[1:]} }}
	loaderBubble(t, src, cfg, func(t *testing.T, l *cache.Loader[string, string]) {
		for _, key := range []string{"a1", "a2", "b1", "b2"} {
			loaderGet(t, l, key)
		}
		require.NoError(t, l.DeleteTags(t.Context(), "a", "1", "nobody's"))
		var left []string
		for key := range l.Range() {
			left = append(left, key)
		}
		require.Equal(t, []string{"b2"}, left)
		require.Equal(t, 1, l.Stats().Entries)
	})
}

func TestLoaderDeleteTagsWinsOverLoadsInFlight(t *testing.T) {
	src := &loaderSource{slow: time.Second}
	cfg := cache.LoaderConfig[string, string]{
		TTL: time.Minute, StaleFor: time.Hour,
		Tags: func(key, _ string) []string { return []string{key[:1]} },
	}
	loaderBubble(t, src, cfg, func(t *testing.T, l *cache.Loader[string, string]) {
		require.NoError(t, l.Set(t.Context(), "b", "old"))
		time.Sleep(time.Minute)
		go func() { _, _ = l.Get(t.Context(), "a") }()
		loaderGet(t, l, "b") // stale, reloads
		synctest.Wait()
		require.NoError(t, l.DeleteTags(t.Context(), "a"))
		time.Sleep(time.Second)
		synctest.Wait()
		_, ok := l.Peek("a")
		require.False(t, ok)
		require.Equal(t, "old", loaderGet(t, l, "b"), "its reload was grounded too, as nobody knew its tags")
		time.Sleep(time.Second)
		synctest.Wait()
		require.Contains(t, loaderGet(t, l, "b"), "b#", "but not the next one")
	})
}

func TestLoaderDeleteFuncForgetsWhatMatches(t *testing.T) {
	src := &loaderSource{}
	loaderBubble(t, src, cache.LoaderConfig[string, string]{}, func(t *testing.T, l *cache.Loader[string, string]) {
		for i := range 100 {
			loaderGet(t, l, fmt.Sprintf("%02d", i))
		}
		src.failWith(cache.ErrNotFound)
		_, err := l.Get(t.Context(), "none")
		require.ErrorIs(t, err, cache.ErrNotFound)
		require.Equal(t, 101, l.Stats().Entries)
		n, err := l.DeleteFunc(t.Context(), func(key, value string) bool {
			_, _ = l.Peek(key) // no lock is held
			return key[0] == '7'
		})
		require.NoError(t, err)
		require.Equal(t, 10, n)
		require.Equal(t, 90, l.Stats().Entries, "the negative answer is gone too")
		require.EqualValues(t, 90, l.Stats().Cost)
	})
}

func TestLoaderDeleteFuncWinsOverALoadInFlight(t *testing.T) {
	src := &loaderSource{slow: time.Second}
	loaderBubble(t, src, cache.LoaderConfig[string, string]{}, func(t *testing.T, l *cache.Loader[string, string]) {
		go func() { _, _ = l.Get(t.Context(), "a") }()
		synctest.Wait()
		_, err := l.DeleteFunc(t.Context(), func(string, string) bool { return true })
		require.NoError(t, err)
		time.Sleep(time.Second)
		synctest.Wait()
		_, ok := l.Peek("a")
		require.False(t, ok)
	})
}

func TestLoaderRangeYieldsWhatCanBeServedAndLetsTheLoopWrite(t *testing.T) {
	src := &loaderSource{}
	cfg := cache.LoaderConfig[string, string]{TTL: time.Minute, StaleFor: time.Minute}
	loaderBubble(t, src, cfg, func(t *testing.T, l *cache.Loader[string, string]) {
		loaderGet(t, l, "dead")
		time.Sleep(90 * time.Second)
		loaderGet(t, l, "stale")
		time.Sleep(time.Minute)
		loaderGet(t, l, "fresh")
		got := map[string]string{}
		for key, value := range l.Range() {
			got[key] = value
			require.NoError(t, l.Delete(t.Context(), key))
		}
		require.Equal(t, map[string]string{"stale": "stale#2", "fresh": "fresh#3"}, got)
		for range l.Range() {
			t.Fatal("all are deleted")
		}
	})
}

func TestLoaderSnapshotBringsValuesAndTheirAgeBack(t *testing.T) {
	src := &loaderSource{}
	cfg := cache.LoaderConfig[string, string]{TTL: time.Minute, Tags: func(key, _ string) []string { return []string{key} }}
	loaderBubble(t, src, cfg, func(t *testing.T, l *cache.Loader[string, string]) {
		loaderGet(t, l, "old")
		time.Sleep(40 * time.Second)
		loaderGet(t, l, "new")
		loaderGet(t, l, "gone")
		var file bytes.Buffer
		n, err := l.Save(&file)
		require.NoError(t, err)
		require.Equal(t, 3, n)

		time.Sleep(20 * time.Second) // while the process is being replaced
		cfg.Load, cfg.Jitter, cfg.EarlyBeta = src.load, -1, -1
		next := cache.MustNewLoader(cfg)
		defer next.Close()
		require.NoError(t, next.Set(t.Context(), "gone", "newer"))
		n, err = next.Restore(&file)
		require.NoError(t, err)
		require.Equal(t, 1, n, "old has expired, and gone is known better already")
		require.Equal(t, "newer", loaderGet(t, next, "gone"))
		time.Sleep(40*time.Second - time.Nanosecond)
		require.Equal(t, "new#2", loaderGet(t, next, "new"))
		time.Sleep(time.Nanosecond)
		require.Equal(t, "new#4", loaderGet(t, next, "new"), "it has no new life")
		require.NoError(t, next.DeleteTags(t.Context(), "new"))
		_, ok := next.Peek("new")
		require.False(t, ok)
	})
}

func TestLoaderSnapshotThatIsCutOffGivesWhatItHas(t *testing.T) {
	l := cache.MustNewLoader(cache.LoaderConfig[int, string]{
		Load: func(context.Context, int) (string, error) { return "value", nil },
	})
	defer l.Close()
	for k := range 10 {
		_, err := l.Get(t.Context(), k)
		require.NoError(t, err)
	}
	var file bytes.Buffer
	_, err := l.Save(&file)
	require.NoError(t, err)
	whole := file.Bytes()
	last := -1
	for cut := range whole {
		next := cache.MustNewLoader(cache.LoaderConfig[int, string]{Load: func(context.Context, int) (string, error) { return "", nil }})
		n, err := next.Restore(bytes.NewReader(whole[:cut]))
		require.Error(t, err)
		require.GreaterOrEqual(t, n, last)
		require.Equal(t, n, next.Stats().Entries)
		last = n
		next.Close()
	}
	require.Equal(t, 10, last)
}

func TestLoaderSaveReportsWhatItCannotWrite(t *testing.T) {
	l := cache.MustNewLoader(cache.LoaderConfig[string, float64]{Load: func(context.Context, string) (float64, error) { return math.NaN(), nil }})
	defer l.Close()
	_, _ = l.Get(t.Context(), "a")
	_, err := l.Save(io.Discard)
	require.ErrorContains(t, err, "NaN")

	full := errors.New("disk full")
	_, err = cache.MustNewLoader(cache.LoaderConfig[string, int]{Load: func(context.Context, string) (int, error) { return 1, nil }}).Save(loaderFullDisk{full})
	require.ErrorIs(t, err, full)
}

type loaderFullDisk struct{ err error }

func (d loaderFullDisk) Write([]byte) (int, error) { return 0, d.err }
