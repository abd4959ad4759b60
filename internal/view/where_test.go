// SPDX-License-Identifier: Apache-2.0

package view

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"afterfin/internal/event"
	"afterfin/internal/leak"
	"afterfin/internal/site"
	"afterfin/internal/symbol"
)

func line(function, file string, at int, module string) symbol.Frame {
	return symbol.Frame{Function: function, File: file, Line: at, Module: module, Offset: 0x1234, Quality: symbol.Line}
}

func only(function, module string) symbol.Frame {
	return symbol.Frame{Function: function, Module: module, Offset: 0x1234, Quality: symbol.Symbol}
}

var (
	goSite = &site.Site{Call: event.SideConnect, Frames: []symbol.Frame{
		line("internal/runtime/syscall.Syscall6", "internal/runtime/syscall/asm_linux_amd64.s", 36, "/srv/pay"),
		line("net.(*Dialer).Dial", "net/dial.go", 495, "/srv/pay"),
		line("billing.(*Client).Get", "/build/billing/client.go", 88, "/srv/pay"),
		line("main.main", "/build/main.go", 12, "/srv/pay"),
		line("runtime.main", "runtime/proc.go", 285, "/srv/pay"),
	}}
	dialed = &site.Site{Call: event.SideConnect, Frames: []symbol.Frame{
		line("internal/runtime/syscall.Syscall6", "internal/runtime/syscall/asm_linux_amd64.s", 36, "/srv/pay"),
		line("net/http.(*Transport).dialConnFor", "net/http/transport.go", 1600, "/srv/pay"),
		line("runtime.goexit", "runtime/asm_amd64.s", 1700, "/srv/pay"),
	}}
	unwound = &site.Site{Call: event.SideAccept, How: site.ByUnwinding, Frames: []symbol.Frame{
		only("accept", "/lib/libc.so.6"), only("serve", "/usr/bin/served"), only("main", "/usr/bin/served"), only("__libc_start_main", "/lib/libc.so.6"),
	}}
	rust = &site.Site{Call: event.SideConnect, How: site.ByUnwinding, Frames: []symbol.Frame{
		only("connect", "/lib/libc.so.6"),
		{Function: "pay::Client::get", File: "/build/src/client.rs", Line: 9, Module: "/srv/pay", Quality: symbol.Symbol},
		line("pay::main", "/build/src/main.rs", 27, "/srv/pay"), line("std::rt::lang_start", "src/rt.rs", 206, "/srv/pay"),
	}}
	noPointers = &site.Site{Call: event.SideConnect, Frames: []symbol.Frame{only("connect", "/lib/libc.so.6")}}
	someFrames = &site.Site{Call: event.SideConnect, Frames: []symbol.Frame{only("connect", "/lib/libc.so.6"), only("serve", "/usr/bin/served")}}
	python     = &site.Site{Call: event.SideConnect, How: site.ByUnwinding, Frames: []symbol.Frame{
		only("connect", "/lib/libc.so.6"), only("sock_connect", "/usr/bin/python3.11"), only("main", "/usr/bin/python3.11"),
	}}
	gone   = &site.Site{Call: event.SideConnect, Stack: []uint64{1}, Note: "the process had ended before its stack could be named"}
	broken = &site.Site{Call: event.SideConnect, How: site.ByUnwinding, Note: "the callers end here: no module", Frames: []symbol.Frame{only("connect", "/lib/libc.so.6")}}
)

func TestWhereText(t *testing.T) {
	followed := leak.Seen{Makes: true, Accepts: true}
	deep := leak.Seen{Makes: true, Deep: true}
	for name, c := range map[string]struct {
		seen  leak.Seen
		side  event.Side // of those without a place
		sites []*site.Site
		want  []string
	}{
		"one look": {want: []string{"not known: leaks --follow names the line of code of the next one, and so does afterfin serve if it runs beside"}, sites: []*site.Site{nil}},
		"Go": {followed, 0, []*site.Site{goSite, goSite, nil}, []string{
			"billing.(*Client).Get  billing/client.go:88   (2 of 3, connect)", "← main.main  build/main.go:12",
			"no stack yet of 1 other: older than afterfin; the next one of its kind will be caught",
		}},
		"unwound":           {deep, 0, []*site.Site{unwound}, []string{"serve  served   (1 of 1, accept)", "← main  served"}},
		"Rust":              {deep, 0, []*site.Site{rust}, []string{"pay::Client::get  begins at src/client.rs:9   (1 of 1, connect)", "← pay::main  src/main.rs:27"}},
		"no frame pointers": {followed, 0, []*site.Site{noPointers}, []string{"connect  libc.so.6   (1 of 1, connect)   the program keeps no frame pointers: --deep finds the callers"}},
		"yet, with --deep":  {deep, 0, []*site.Site{noPointers}, []string{"connect  libc.so.6   (1 of 1, connect)   the program keeps no frame pointers"}},
		"perhaps not all":   {followed, 0, []*site.Site{someFrames}, []string{"serve  served   (1 of 1, connect)   by frame pointers, callers may be missing: --deep is sure"}},
		"own code first":    {deep, 0, []*site.Site{noPointers, noPointers, unwound}, []string{"serve  served   (1 of 3, accept)", "← main  served", "connect  libc.so.6   (2 of 3, connect)   the program keeps no frame pointers"}},
		"Python": {deep, 0, []*site.Site{python}, []string{
			"connect  libc.so.6   (1 of 1, connect)   in the interpreter: the line of the Python program is not to be seen from outside", "← sock_connect  python3.11   ← main  python3.11",
		}},
		"Go's own goroutine": {followed, 0, []*site.Site{dialed}, []string{
			"net/http.(*Transport).dialConnFor  http/transport.go:1600   (1 of 1, connect)   a goroutine of Go's own library does this: who asked it to is not on its stack",
		}},
		"ended":           {deep, 0, []*site.Site{gone}, []string{"the process had ended before its stack could be named   (1 of 1, connect)"}},
		"no module":       {deep, 0, []*site.Site{broken}, []string{"connect  libc.so.6   (1 of 1, connect)   the callers end here: no module"}},
		"accept not seen": {leak.Seen{Makes: true}, event.SideAccept, []*site.Site{nil}, []string{"no stack yet: accept() is not seen by the hooks that load here, --deep takes it"}},
		"accept seen":     {followed, event.SideAccept, []*site.Site{nil}, []string{"no stack yet: older than afterfin; the next one of its kind will be caught"}},
	} {
		var leaks []leak.Leak
		for _, s := range c.sites {
			leaks = append(leaks, leak.Leak{Socket: &leak.Socket{Side: c.side}, Site: s})
		}
		g := leak.GroupByProcess(leaks, nil, 0)[0]
		if got := whereText(&leak.Report{Seen: c.seen}, &g); !slices.Equal(got, c.want) {
			t.Errorf("%s:\n%s\nwant\n%s", name, strings.Join(got, "\n"), strings.Join(c.want, "\n"))
		}
	}
}

func TestPlacesJSON(t *testing.T) {
	g := leak.GroupByProcess([]leak.Leak{
		{Socket: &leak.Socket{}, Site: noPointers}, {Socket: &leak.Socket{}, Site: unwound}, {Socket: &leak.Socket{}},
	}, nil, 0)[0]
	frames, all := placesJSON(g.Places)
	raw, err := json.Marshal(all[1])
	const want = `{"count":1,"call":"connect","how":"frame_pointers","sure":false,"named":0,"note":null,` +
		`"frames":[{"function":"connect","file":null,"line":null,"module":"/lib/libc.so.6","offset":4660,"inlined":false,"note":null}]}`
	if string(raw) != want || err != nil {
		t.Errorf("%s, %v; want %s", raw, err, want)
	}
	if len(frames) != 4 || *frames[1].Function != "serve" || *all[0].Named != 1 {
		t.Errorf("first %+v", all[0])
	}
	for i, want := range []int{1, 0} {
		if at := placeOf(g.Leaks[i].Site, g.Places); at == nil || *at != want {
			t.Errorf("site_index %v, want %d", at, want)
		}
	}
	if placeOf(nil, g.Places) != nil {
		t.Error("a place for a socket without one")
	}
}
