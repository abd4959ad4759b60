// SPDX-License-Identifier: Apache-2.0

// A program that tells its own stack and waits. An inlined call, a method, a
// generic function and a closure are on it.
package main

import (
	"encoding/json"
	"io"
	"os"
	"runtime"
)

type told struct {
	PC       uint64
	Function string
	File     string
	Line     int
}

//go:noinline
func capture() []told {
	var pcs [64]uintptr
	n := runtime.Callers(1, pcs[:])
	var all []told
	for _, pc := range pcs[:n] {
		frame, _ := runtime.CallersFrames([]uintptr{pc}).Next()
		all = append(all, told{uint64(pc), frame.Function, frame.File, frame.Line})
	}
	return all
}

func inlined() []told {
	return capture()
}

func inlinedTwice() []told { return inlined() }

type client struct{ name string }

//go:noinline
func (c *client) get() []told {
	c.name = "got"
	return inlinedTwice()
}

//go:noinline
func generic[T any](value T, call func(T) []told) []told {
	return call(value)
}

func main() {
	stack := generic(&client{}, func(c *client) []told {
		return c.get()
	})
	if err := json.NewEncoder(os.Stdout).Encode(stack); err != nil {
		panic(err)
	}
	io.Copy(io.Discard, os.Stdin)
}
