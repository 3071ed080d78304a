module github.com/go-spillway/spillway/examples/compare

go 1.26.0

replace github.com/go-spillway/spillway => ../..
