// Package openfeature lets code that asks OpenFeature for its flags ask a
// degrade.Switch instead:
//
//	sw := degrade.MustNewSwitch(degrade.SwitchConfig{Pressure: …})
//	sw.Feature("reviews", degrade.Optional)
//	of.SetProviderAndWait(openfeature.New(sw))
//
//	on, err := client.BooleanValue(ctx, "reviews", true, of.EvaluationContext{})
//
// A flag is the name of a feature and is boolean. With the context of a request
// that passed the switch's Handler the answer is the one pinned for the request.
// It is a module of its own, so that the core does not depend on the SDK.
package openfeature

import (
	"context"

	of "github.com/open-feature/go-sdk/openfeature"

	"github.com/go-spillway/spillway/degrade"
)

// Provider answers from a switch. It is safe for concurrent use.
type Provider struct{ sw *degrade.Switch }

var _ of.FeatureProvider = (*Provider)(nil)

// New returns a provider that answers from sw.
func New(sw *degrade.Switch) *Provider { return &Provider{sw} }

// Metadata names the provider.
func (p *Provider) Metadata() of.Metadata { return of.Metadata{Name: "spillway"} }

// Hooks returns none.
func (p *Provider) Hooks() []of.Hook { return nil }

// BooleanEvaluation reports whether the feature is on. A feature that the switch
// does not know has the default value and the error FLAG_NOT_FOUND.
func (p *Provider) BooleanEvaluation(ctx context.Context, flag string, def bool, _ of.FlattenedContext) of.BoolResolutionDetail {
	f := p.sw.Lookup(flag)
	if f == nil {
		return of.BoolResolutionDetail{Value: def, ProviderResolutionDetail: missing(flag)}
	}
	if f.EnabledFor(ctx) {
		return of.BoolResolutionDetail{Value: true, ProviderResolutionDetail: of.ProviderResolutionDetail{Reason: of.DefaultReason, Variant: "on"}}
	}
	return of.BoolResolutionDetail{ProviderResolutionDetail: of.ProviderResolutionDetail{Reason: of.DisabledReason, Variant: "off"}}
}

// StringEvaluation returns the default value: features are boolean.
func (p *Provider) StringEvaluation(_ context.Context, flag, def string, _ of.FlattenedContext) of.StringResolutionDetail {
	return of.StringResolutionDetail{Value: def, ProviderResolutionDetail: p.mismatch(flag)}
}

// FloatEvaluation returns the default value: features are boolean.
func (p *Provider) FloatEvaluation(_ context.Context, flag string, def float64, _ of.FlattenedContext) of.FloatResolutionDetail {
	return of.FloatResolutionDetail{Value: def, ProviderResolutionDetail: p.mismatch(flag)}
}

// IntEvaluation returns the default value: features are boolean.
func (p *Provider) IntEvaluation(_ context.Context, flag string, def int64, _ of.FlattenedContext) of.IntResolutionDetail {
	return of.IntResolutionDetail{Value: def, ProviderResolutionDetail: p.mismatch(flag)}
}

// ObjectEvaluation returns the default value: features are boolean.
func (p *Provider) ObjectEvaluation(_ context.Context, flag string, def any, _ of.FlattenedContext) of.InterfaceResolutionDetail {
	return of.InterfaceResolutionDetail{Value: def, ProviderResolutionDetail: p.mismatch(flag)}
}

func missing(flag string) of.ProviderResolutionDetail {
	return of.ProviderResolutionDetail{ResolutionError: of.NewFlagNotFoundResolutionError("no feature " + flag), Reason: of.ErrorReason}
}

func (p *Provider) mismatch(flag string) of.ProviderResolutionDetail {
	if p.sw.Lookup(flag) == nil {
		return missing(flag)
	}
	return of.ProviderResolutionDetail{ResolutionError: of.NewTypeMismatchResolutionError("feature " + flag + " is boolean"), Reason: of.ErrorReason}
}
