// Command rivals serves a chain in front of backends, to be weighed.
package main

import (
	"net/http"
	"os"

	"github.com/go-spillway/spillway/examples/compare/chain/rivals"
)

func main() {
	panic(http.ListenAndServe("127.0.0.1:0", rivals.Chain(rivals.Proxy(os.Args[1:]...))))
}
