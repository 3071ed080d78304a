// Command caddy is a reverse proxy made of Caddy's own handlers, to be measured
// beside the others. It is a module of its own for the sake of its dependencies.
//
//	go build -o /tmp/caddy . && cd .. && SPILLWAY_CADDY=/tmp/caddy SPILLWAY_ROUNDS=7 go test -v -run Ratios .
//
// It is given the address to listen on and the backends' addresses, and runs
// until its standard input ends.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/caddyserver/caddy/v2"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

func main() {
	type object = map[string]any
	var upstreams []object
	for _, addr := range os.Args[2:] {
		upstreams = append(upstreams, object{"dial": addr})
	}
	config, err := json.Marshal(object{
		"admin":   object{"disabled": true, "config": object{"persist": false}},
		"logging": object{"logs": object{"default": object{"level": "ERROR"}}},
		"apps": object{"http": object{"servers": object{"proxy": object{
			"listen":          []string{os.Args[1]},
			"automatic_https": object{"disable": true},
			"routes": []object{{"handle": []object{{
				"handler":        "reverse_proxy",
				"upstreams":      upstreams,
				"load_balancing": object{"selection_policy": object{"policy": "least_conn"}},
				"transport": object{
					"protocol":    "http",
					"compression": false,
					"keep_alive":  object{"max_idle_conns_per_host": 256},
				},
			}}}},
		}}}},
	})
	if err == nil {
		err = caddy.Load(config, true)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
}
