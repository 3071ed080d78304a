// Connect puts an RPC service behind the chain in one line: handlers of Connect,
// which speak gRPC, gRPC-Web and Connect's own protocol, are http.Handlers. So
// are those of grpc-gateway.
//
//	go run -C examples/connect .                       # from the root of the repository
//	curl -i -d '"Ada"' -H 'Content-Type: application/json' localhost:8080/greet.v1.Greeter/Greet
//	for i in $(seq 12); do curl -so /dev/null -w '%{http_code} ' -d '"Ada"' -H 'Content-Type: application/json' localhost:8080/greet.v1.Greeter/Greet; done
//	go run -C examples/connect . -call                 # the same by gRPC, in another terminal
//
// You should see "Hello, Ada." with a RateLimit field, and 429 after ten calls,
// with Retry-After; a client of Connect or gRPC sees the code unavailable, which
// is what their retries look for.
//
// One thing to know: an error of gRPC comes with the status 200. Tell package
// breaker by its Judge and package balancer by its Verdict what Grpc-Status says
// where it is in the header; Connect's own protocol uses the statuses of HTTP.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os/signal"
	"syscall"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/go-spillway/spillway/degrade"
	"github.com/go-spillway/spillway/health"
	"github.com/go-spillway/spillway/ratelimit"
)

// With generated code this is greetv1connect.NewGreeterHandler. Here the
// messages are strings, which need none.
const procedure = "/greet.v1.Greeter/Greet"

func greet(_ context.Context, req *connect.Request[wrapperspb.StringValue]) (*connect.Response[wrapperspb.StringValue], error) {
	if req.Msg.GetValue() == "" {
		return nil, connect.NewError(connect.CodeInvalidArgument, errors.New("nobody to greet"))
	}
	return connect.NewResponse(wrapperspb.String("Hello, " + req.Msg.GetValue() + ".")), nil
}

// newServer is the part to copy.
func newServer() (*health.Checker, *http.Server) {
	h := health.MustNew(health.Config{Drain: health.Drain{Delay: time.Second}})
	lim := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerMinute(10), Key: ratelimit.ClientIP()})
	shed := degrade.MustNew(degrade.Config{})

	mux := http.NewServeMux()
	mux.Handle(procedure, connect.NewUnaryHandler(procedure, greet))
	srv := &http.Server{Handler: h.Handler(lim.Handler(shed.Handler(mux)))} // the line

	srv.Protocols = new(http.Protocols)
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(true) // for gRPC without TLS
	return h, srv
}

// newClient speaks gRPC, which needs HTTP/2.
func newClient(url string) *connect.Client[wrapperspb.StringValue, wrapperspb.StringValue] {
	two := new(http.Protocols)
	two.SetUnencryptedHTTP2(true)
	return connect.NewClient[wrapperspb.StringValue, wrapperspb.StringValue](
		&http.Client{Transport: &http.Transport{Protocols: two}}, url+procedure, connect.WithGRPC())
}

func main() {
	listen := flag.String("listen", "127.0.0.1:8080", "`address` to serve on")
	call := flag.Bool("call", false, "call the service that is there instead, by gRPC")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if *call {
		resp, err := newClient("http://"+*listen).CallUnary(ctx, connect.NewRequest(wrapperspb.String("Ada")))
		if err != nil {
			log.Fatalf("connect: %v: %v", connect.CodeOf(err), err)
		}
		fmt.Println(resp.Msg.GetValue(), "RateLimit:", resp.Header().Get("RateLimit"))
		return
	}
	ln, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("serving on http://%s; what to try is in the comment of main.go\n", *listen)
	h, srv := newServer()
	if err := h.Serve(ctx, srv, ln); err != nil {
		log.Fatal(err)
	}
}
