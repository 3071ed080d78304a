// Command bare serves a plain reverse proxy, to be weighed.
package main

import (
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
)

func main() {
	to, err := url.Parse(os.Args[1])
	if err != nil {
		panic(err)
	}
	panic(http.ListenAndServe("127.0.0.1:0", &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }}))
}
