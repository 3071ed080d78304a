// Routers shows that the middleware fits each router in one line: it is a
// func(http.Handler) http.Handler and nothing else.
//
//	go run -C examples/routers . -router chi         # from the root of the repository; or gin, echo, gorilla, mux
//	curl -i localhost:8080/users/7                   # RateLimit says what is left
//	for i in $(seq 12); do curl -so /dev/null -w '%{http_code} ' localhost:8080/users/7; done
//
// You should see 200 until ten requests were made in the minute, and then 429,
// with each of them.
package main

import (
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"

	"github.com/gin-gonic/gin"
	"github.com/go-chi/chi/v5"
	"github.com/gorilla/mux"
	"github.com/labstack/echo/v4"

	"github.com/go-spillway/spillway/degrade"
	"github.com/go-spillway/spillway/ratelimit"
)

func user(w http.ResponseWriter, r *http.Request, id string) { fmt.Fprintf(w, "user %s\n", id) }

// routers makes each of them, with the same two parts around every route.
var routers = map[string]func(lim *ratelimit.Limiter, shed *degrade.Shedder) http.Handler{
	"mux": func(lim *ratelimit.Limiter, shed *degrade.Shedder) http.Handler {
		m := http.NewServeMux()
		m.HandleFunc("GET /users/{id}", func(w http.ResponseWriter, r *http.Request) { user(w, r, r.PathValue("id")) })
		return lim.Handler(shed.Handler(m)) // the line
	},
	"chi": func(lim *ratelimit.Limiter, shed *degrade.Shedder) http.Handler {
		m := chi.NewRouter()
		m.Use(lim.Handler, shed.Handler) // the line
		m.Get("/users/{id}", func(w http.ResponseWriter, r *http.Request) { user(w, r, chi.URLParam(r, "id")) })
		return m
	},
	"gorilla": func(lim *ratelimit.Limiter, shed *degrade.Shedder) http.Handler {
		m := mux.NewRouter()
		m.Use(lim.Handler, shed.Handler) // the line
		m.HandleFunc("/users/{id}", func(w http.ResponseWriter, r *http.Request) { user(w, r, mux.Vars(r)["id"]) })
		return m
	},
	"echo": func(lim *ratelimit.Limiter, shed *degrade.Shedder) http.Handler {
		m := echo.New()
		m.Use(echo.WrapMiddleware(lim.Handler), echo.WrapMiddleware(shed.Handler)) // the line
		m.GET("/users/:id", func(c echo.Context) error { user(c.Response(), c.Request(), c.Param("id")); return nil })
		return m
	},
	"gin": func(lim *ratelimit.Limiter, shed *degrade.Shedder) http.Handler {
		gin.SetMode(gin.ReleaseMode)
		m := gin.New()
		m.GET("/users/:id", func(c *gin.Context) { user(c.Writer, c.Request, c.Param("id")) })
		return lim.Handler(shed.Handler(m)) // the line: around the engine, since gin's own middleware is not net/http's
	},
}

func main() {
	listen := flag.String("listen", "127.0.0.1:8080", "`address` to serve on")
	name := flag.String("router", "mux", "mux, chi, gorilla, echo or gin")
	flag.Parse()
	router, ok := routers[*name]
	if !ok {
		fmt.Fprintf(os.Stderr, "routers: -router is %q, must be mux, chi, gorilla, echo or gin\n", *name)
		os.Exit(2)
	}
	lim := ratelimit.MustNew(ratelimit.Config{Rate: ratelimit.PerMinute(10)})
	shed := degrade.MustNew(degrade.Config{})
	fmt.Printf("serving on http://%s; what to try is in the comment of main.go\n", *listen)
	log.Fatal(http.ListenAndServe(*listen, router(lim, shed)))
}
