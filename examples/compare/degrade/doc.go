// Package degrade compares the shedder with adaptive limiters that people use
// today. See README.md.
package degrade
