// SPDX-License-Identifier: Apache-2.0

package site

import (
	"testing"

	"afterfin/internal/event"
	"afterfin/internal/symbol"
)

func named(function, file, module string) symbol.Frame {
	return symbol.Frame{Function: function, File: file, Module: module, Quality: symbol.Symbol}
}

func TestNamed(t *testing.T) {
	libc := named("connect", "", "/lib/x86_64-linux-gnu/libc.so.6")
	for name, c := range map[string]struct {
		frames []symbol.Frame
		at     int
		own    bool
	}{
		"nothing":             {nil, 0, false},
		"libc":                {[]symbol.Frame{libc}, 0, false},
		"C":                   {[]symbol.Frame{libc, named("dial", "dial.c", "/bin/pay")}, 1, true},
		"a library of ours":   {[]symbol.Frame{libc, named("ours", "", "/opt/libours.so"), named("main", "", "/bin/pay")}, 1, true},
		"without functions":   {[]symbol.Frame{{Module: "/bin/pay", Quality: symbol.Module}, libc}, 1, false},
		"musl":                {[]symbol.Frame{named("connect", "", "/lib/ld-musl-x86_64.so.1"), named("dial", "", "/bin/pay")}, 1, true},
		"Go's own":            {[]symbol.Frame{named("internal/runtime/syscall.Syscall6", "x/asm_linux_amd64.s", "/bin/pay"), named("net.(*netFD).connect", "net/fd_unix.go", "/bin/pay"), named("golang.org/x/sys/unix.Connect", "unix/syscall.go", "/bin/pay"), named("main.dial", "/src/main.go", "/bin/pay")}, 3, true},
		"Go, its own module":  {[]symbol.Frame{named("afterfin/internal/lab.Connect", "lab/x.go", "/bin/pay")}, 0, true},
		"Go, only its own":    {[]symbol.Frame{named("net/http.(*Transport).dial", "net/http/transport.go", "/bin/pay"), named("net/http.(*Transport).dialConnFor", "net/http/transport.go", "/bin/pay"), named("runtime.goexit", "runtime/asm_amd64.s", "/bin/pay")}, 0, false},
		"Rust":                {[]symbol.Frame{libc, named("std::net::tcp::TcpStream::connect", "", "/bin/pay"), named("<std::net::tcp::TcpStream as X>::y", "", "/bin/pay"), named("core::ops::function::FnOnce::call_once", "", "/bin/pay"), named("pay::dial", "src/main.rs", "/bin/pay")}, 4, true},
		"C++, its library":    {[]symbol.Frame{libc, named("std::thread::run", "", "/usr/lib/libstdc++.so.6"), named("billing::Client::dial", "", "/bin/pay")}, 2, true},
		"node, native only":   {[]symbol.Frame{libc, named("uv_tcp_connect", "", "/usr/bin/node")}, 0, false},
		"node, with its map":  {[]symbol.Frame{libc, named("node::TCPWrap::Connect", "", "/usr/bin/node"), named("internalConnect", "node:net", ""), named("leak", "/srv/pay.js", "")}, 3, true},
		"a file called go":    {[]symbol.Frame{named("dial", "/src/net/dial.c", "/bin/pay")}, 0, true},
		"the vdso":            {[]symbol.Frame{named("__vdso_time", "", "[vdso]"), named("main", "", "/bin/pay")}, 1, true},
		"a library like libc": {[]symbol.Frame{named("dial", "", "/opt/libcurl.so.4")}, 0, true},
	} {
		s := Site{Frames: c.frames}
		if at, own := s.Named(); at != c.at || own != c.own {
			t.Errorf("%s: %d, own %v; want %d, %v", name, at, own, c.at, c.own)
		}
	}
}

func TestSure(t *testing.T) {
	libc, own := named("connect", "", "/lib/libc.so.6"), named("main", "", "/bin/pay")
	golang := named("internal/runtime/syscall.Syscall6", "internal/runtime/syscall/asm_linux_arm64.s", "/bin/pay")
	for name, c := range map[string]struct {
		site Site
		want bool
	}{
		"C by frame pointers":       {Site{Frames: []symbol.Frame{libc, own}}, false},
		"Go by frame pointers":      {Site{Frames: []symbol.Frame{golang, own}}, true},
		"unwound":                   {Site{How: ByUnwinding, Frames: []symbol.Frame{libc, own}}, true},
		"unwound, but not to main":  {Site{How: ByUnwinding, Frames: []symbol.Frame{libc, own}, Note: "x"}, true},
		"unwound, but not to ours":  {Site{How: ByUnwinding, Frames: []symbol.Frame{libc}, Note: "x"}, false},
		"nothing":                   {Site{}, false},
		"unwound, but not resolved": {Site{How: ByUnwinding, Note: "x"}, false},
	} {
		if got := c.site.Sure(); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestKey(t *testing.T) {
	at := func(line int, offset uint64, call event.Side) *Site {
		f := named("dial", "dial.c", "/bin/pay")
		f.Line, f.Offset = line, offset
		return &Site{Call: call, Frames: []symbol.Frame{f}}
	}
	same := at(7, 100, event.SideConnect)
	if same.Key() != at(7, 104, event.SideConnect).Key() {
		t.Error("two addresses of one line are one place")
	}
	for name, other := range map[string]*Site{
		"another line": at(8, 100, event.SideConnect), "another call": at(7, 100, event.SideAccept), "no line": at(0, 100, event.SideConnect),
	} {
		if other.Key() == same.Key() {
			t.Errorf("%s is the same place", name)
		}
	}
	if at(0, 100, 0).Key() == at(0, 104, 0).Key() {
		t.Error("without lines addresses count")
	}
	if (&Site{Stack: []uint64{1}}).Key() == (&Site{Stack: []uint64{2}}).Key() {
		t.Error("without frames addresses count")
	}
}
