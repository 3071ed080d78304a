package openfeature_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	of "github.com/open-feature/go-sdk/openfeature"
	"github.com/stretchr/testify/require"

	"github.com/go-spillway/spillway/degrade"
	"github.com/go-spillway/spillway/degrade/openfeature"
)

func Example() {
	sw := degrade.MustNewSwitch(degrade.SwitchConfig{})
	sw.Feature("reviews", degrade.Optional)
	of.SetProviderAndWait(openfeature.New(sw))
	client := of.NewClient("shop")

	on, _ := client.BooleanValue(context.Background(), "reviews", true, of.EvaluationContext{})
	fmt.Println(on)
	sw.Set(degrade.Override{Target: "reviews", Author: "ann", Reason: "slow database", Expires: time.Now().Add(time.Hour)})
	on, _ = client.BooleanValue(context.Background(), "reviews", true, of.EvaluationContext{})
	fmt.Println(on)
	// Output:
	// true
	// false
}

func TestWhatIsNotAFeatureHasItsDefault(t *testing.T) {
	sw := degrade.MustNewSwitch(degrade.SwitchConfig{})
	sw.Feature("reviews", degrade.Optional)
	p := openfeature.New(sw)
	require.True(t, p.BooleanEvaluation(t.Context(), "unknown", true, nil).Value)
	require.ErrorContains(t, p.BooleanEvaluation(t.Context(), "unknown", true, nil).Error(), "FLAG_NOT_FOUND")
	d := p.StringEvaluation(t.Context(), "reviews", "x", nil)
	require.Equal(t, "x", d.Value)
	require.ErrorContains(t, d.Error(), "TYPE_MISMATCH")
	require.EqualValues(t, 3, p.IntEvaluation(t.Context(), "reviews", 3, nil).Value)
	require.EqualValues(t, 0.5, p.FloatEvaluation(t.Context(), "reviews", 0.5, nil).Value)
	require.Equal(t, "y", p.ObjectEvaluation(t.Context(), "reviews", "y", nil).Value)
}
