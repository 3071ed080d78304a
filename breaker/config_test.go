package breaker_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/go-spillway/spillway/breaker"
	"github.com/stretchr/testify/require"
)

func TestNewNamesEveryFieldThatIsWrong(t *testing.T) {
	for want, cfg := range map[string]breaker.Config{
		"Config.Window is 1ms, must be from 10ms to 24h0m0s":                                                 {Window: time.Millisecond},
		"Config.Window is -1s, must be from 10ms to 24h0m0s":                                                 {Window: -time.Second},
		"Config.MinCalls is -1, must be positive":                                                            {MinCalls: -1},
		"Config.FailureRatio is 1.5, must be above 0 and at most 1, or negative to turn it off":              {FailureRatio: 1.5},
		"Config.FailureRatio is NaN, must be above 0 and at most 1, or negative to turn it off":              {FailureRatio: math.NaN()},
		"Config.SlowRatio is +Inf, must be above 0 and at most 1, or negative to turn it off":                {SlowRatio: math.Inf(1)},
		"Config.SlowCall is 1µs, must be from 1ms to 24h0m0s, or negative to turn it off":                    {SlowCall: time.Microsecond},
		"Config.OpenFor is -1s, must be from 1ms to 8760h0m0s":                                               {OpenFor: -time.Second},
		"Config.MaxOpen is 1s, must be from OpenFor (5s) to 8760h0m0s":                                       {MaxOpen: time.Second},
		"Config.MaxOpen is -1s, must be from OpenFor (5s) to 8760h0m0s":                                      {MaxOpen: -time.Second},
		"Config.Jitter is 2, must be above 0 and at most 1, or negative to turn it off":                      {Jitter: 2},
		"Config.MaxRetryAfter is 1ms, must be from 1s to 8760h0m0s, or negative to turn it off":              {MaxRetryAfter: time.Millisecond},
		"Config.Probes is -1, must be positive":                                                              {Probes: -1},
		"Config.ProbesAtOnce is -1, must be positive":                                                        {ProbesAtOnce: -1},
		"Config.ProbeLease is -1s, must be from 1ms to 8760h0m0s":                                            {ProbeLease: -time.Second},
		"Config.Ramp is 1µs, must be from 1ms to 8760h0m0s, or negative to turn it off":                      {Ramp: time.Microsecond},
		"Config.MaxKeys is -1, must be positive":                                                             {MaxKeys: -1},
		"Config.Quorum is -1, must be positive":                                                              {Quorum: -1},
		"Config.SyncEvery is 1ms, must be from 10ms to 24h0m0s":                                              {SyncEvery: time.Millisecond},
		"Config.FailureRatio, ConsecutiveFailures and SlowCall are all off, one must be on":                  {FailureRatio: -1, SlowCall: -1},
		"Config.FailureRatio, ConsecutiveFailures and SlowCall are all off, one must be on ":                 {FailureRatio: -1, SlowRatio: -1, ConsecutiveFailures: -1},
		"Config.MinCalls is -2, must be positive\nbreaker: Config.ProbesAtOnce is -3, must be positive":      {MinCalls: -2, ProbesAtOnce: -3},
		"Config.OpenFor is 2562047h47m16.854775807s, must be from 1ms to 8760h0m0s\nbreaker: Config.MaxOpen": {OpenFor: math.MaxInt64},
	} {
		b, err := breaker.New(cfg)
		require.Nil(t, b, want)
		require.Error(t, err, want)
		require.True(t, strings.HasPrefix(err.Error(), "breaker: "+strings.TrimSpace(want)), "%q\n%q", want, err.Error())
		require.PanicsWithError(t, err.Error(), func() { breaker.MustNew(cfg) })
	}
}

func TestMaxOpenIsNamedBesideAnOpenForThatIsWrong(t *testing.T) {
	_, err := breaker.New(breaker.Config{OpenFor: -time.Second, MaxOpen: -time.Second})
	require.EqualError(t, err, "breaker: Config.OpenFor is -1s, must be from 1ms to 8760h0m0s\n"+
		"breaker: Config.MaxOpen is -1s, must be from OpenFor to 8760h0m0s")
	_, err = breaker.New(breaker.Config{OpenFor: -time.Second, MaxOpen: time.Second}) // with what would it be compared?
	require.EqualError(t, err, "breaker: Config.OpenFor is -1s, must be from 1ms to 8760h0m0s")
}

func TestNewTakesTheEdges(t *testing.T) {
	for _, cfg := range []breaker.Config{
		{},
		{FailureRatio: 1, SlowRatio: 1, Jitter: 1},
		{FailureRatio: math.SmallestNonzeroFloat64},
		{FailureRatio: -1},
		{SlowCall: -1, Jitter: -1, Ramp: -1, MaxRetryAfter: -1},
		{FailureRatio: -1, SlowRatio: -1, ConsecutiveFailures: 1},
		{OpenFor: 2 * time.Hour}, // more than MaxOpen's default
		{Window: 10 * time.Millisecond, SlowCall: time.Millisecond, OpenFor: time.Millisecond, MaxOpen: time.Millisecond, ProbeLease: time.Millisecond},
		{MinCalls: math.MaxInt32, Probes: math.MaxInt32, ProbesAtOnce: math.MaxInt32},
	} {
		b, err := breaker.New(cfg)
		require.NoError(t, err)
		require.NoError(t, try(b, nil))
	}
}
