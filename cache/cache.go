// Package cache keeps HTTP responses as RFC 9111 allows, in front of a handler
// or behind a client.
package cache
