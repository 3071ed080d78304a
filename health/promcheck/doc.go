// Package promcheck reads what package health writes with the parsers of the
// Prometheus server itself, in the text format and in OpenMetrics. It is a
// module of its own, so that a user of the library never downloads the server.
package promcheck
