package rediscache_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/cache/rediscache"
)

func TestStoreKeepsForgetsAndLetsExpire(t *testing.T) {
	rdb := startServer(t).client()
	defer rdb.Close()
	s := rediscache.New("shop:", rdb)
	ctx := t.Context()

	value, err := s.Get(ctx, "a")
	require.NoError(t, err)
	require.Nil(t, value)
	require.NoError(t, s.Set(ctx, "a", []byte("\x00\xff"), time.Hour))
	value, err = s.Get(ctx, "a")
	require.NoError(t, err)
	require.Equal(t, []byte("\x00\xff"), value)
	require.EqualValues(t, 1, rdb.Exists(ctx, "shop:a").Val(), "under its prefix")
	left := rdb.PTTL(ctx, "shop:a").Val()
	require.Greater(t, left, 59*time.Minute)
	require.LessOrEqual(t, left, time.Hour)
	require.NoError(t, s.Delete(ctx, "a"))
	require.NoError(t, s.Delete(ctx, "a"), "twice is no error")
	value, err = s.Get(ctx, "a")
	require.NoError(t, err)
	require.Nil(t, value)

	require.NoError(t, s.Set(ctx, "b", nil, time.Nanosecond))
	require.Eventually(t, func() bool {
		value, err := s.Get(ctx, "b")
		return err == nil && value == nil
	}, 10*time.Second, time.Millisecond)
}

func TestLockIsGivenToOneAndGivenBackByItsHolderAlone(t *testing.T) {
	rdb := startServer(t).client()
	defer rdb.Close()
	s := rediscache.New("shop:", rdb)
	ctx := t.Context()

	first, err := s.Lock(ctx, "a", time.Minute)
	require.NoError(t, err)
	require.NotNil(t, first)
	second, err := s.Lock(ctx, "a", time.Minute)
	require.NoError(t, err)
	require.Nil(t, second)
	require.NoError(t, first(ctx))
	second, err = s.Lock(ctx, "a", time.Minute)
	require.NoError(t, err)
	require.NotNil(t, second)

	require.NoError(t, first(ctx), "an old token")
	third, err := s.Lock(ctx, "a", time.Minute)
	require.NoError(t, err)
	require.Nil(t, third, "the second still holds it")
	require.LessOrEqual(t, rdb.PTTL(ctx, "shop:#lock:a").Val(), time.Minute, "and not for ever")
	require.Positive(t, rdb.PTTL(ctx, "shop:#lock:a").Val())
}

func TestSubscribersHearEachOtherAndOfACutConnection(t *testing.T) {
	server := startServer(t)
	rdb := server.client()
	defer rdb.Close()
	s := rediscache.New("shop:", rdb)
	ctx, cancel := context.WithCancel(t.Context())
	heard := make(chan string, 10)
	ended := make(chan error, 1)
	subscribe := func() {
		ended <- s.Subscribe(ctx, func(m []byte) {
			if m == nil {
				heard <- "subscribed"
			} else {
				heard <- string(m)
			}
		})
	}
	go subscribe()
	require.Equal(t, "subscribed", <-heard)
	require.NoError(t, s.Publish(ctx, []byte("hello")))
	require.Equal(t, "hello", <-heard)
	require.NoError(t, rediscache.New("other:", rdb).Publish(ctx, []byte("not for us")))
	require.NoError(t, s.Publish(ctx, []byte("again")))
	require.Equal(t, "again", <-heard)

	require.NoError(t, rdb.ClientKillByFilter(ctx, "TYPE", "pubsub").Err())
	select {
	case err := <-ended: // the caller subscribes again
		require.Error(t, err)
		go subscribe()
	case m := <-heard: // or the client has done so
		require.Equal(t, "subscribed", m)
		heard <- m
	}
	require.Equal(t, "subscribed", <-heard)
	cancel()
	require.ErrorIs(t, <-ended, context.Canceled)
}
