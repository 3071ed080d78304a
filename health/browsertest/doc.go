// Package browsertest looks at the dashboard of package health with a real
// Chromium. It is a module of its own, so that a user of the library never
// downloads what drives a browser.
//
//	go test ./...                              # skips what it can't without chromium
//	SCREENSHOTS=/tmp/shots go test ./...       # keeps what it saw
package browsertest
