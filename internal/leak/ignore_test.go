// SPDX-License-Identifier: Apache-2.0

package leak

import (
	"net/netip"
	"strings"
	"testing"

	"afterfin/internal/owner"
	"afterfin/internal/tcp"
)

func TestIgnore(t *testing.T) {
	const here = "10.0.0.5:43210"
	for rule, c := range map[string]struct {
		remote string
		comm   string
		want   bool
	}{
		"comm=app":                        {"10.0.4.9:443", "app", true},
		"comm=ap":                         {"10.0.4.9:443", "app", false},
		"comm=app ":                       {"10.0.4.9:443", "", false},
		"port=443":                        {"10.0.4.9:443", "app", true},
		"port=43210":                      {"10.0.4.9:443", "app", true},
		"port=44":                         {"10.0.4.9:443", "app", false},
		"remote=10.0.4.9":                 {"10.0.4.9:443", "app", true},
		"remote=10.0.0.5":                 {"10.0.4.9:443", "app", false},
		"remote=10.0.4.9:443":             {"10.0.4.9:443", "app", true},
		"remote=10.0.4.9:444":             {"10.0.4.9:443", "app", false},
		"remote=10.0.4.77/24":             {"10.0.4.9:443", "app", true},
		"remote=10.0.5.0/24":              {"10.0.4.9:443", "app", false},
		"remote=10.0.0.0/8:443":           {"10.0.4.9:443", "app", true},
		"remote=10.0.0.0/8:80":            {"10.0.4.9:443", "app", false},
		"remote=0.0.0.0/0":                {"[2001:db8::9]:443", "app", false},
		"remote=::ffff:10.0.4.9":          {"10.0.4.9:443", "app", true},
		"remote=::ffff:10.0.0.0/104":      {"10.0.4.9:443", "app", true},
		"remote=[::ffff:10.0.4.9]:443":    {"10.0.4.9:443", "app", true},
		"remote=2001:db8::9":              {"[2001:db8::9]:443", "app", true},
		"remote=[2001:db8::9]":            {"[2001:db8::9]:443", "app", true},
		"remote=[2001:db8::9]:443":        {"[2001:db8::9]:443", "app", true},
		"remote=[2001:db8::9]:80":         {"[2001:db8::9]:443", "app", false},
		"remote=2001:db8::/32":            {"[2001:db8::9]:443", "app", true},
		"remote=[2001:db8::]/32:443":      {"[2001:db8::9]:443", "app", true},
		"remote=2001:db8::/32:444":        {"[2001:db8::9]:443", "app", false},
		"remote=fe80::1%eth0":             {"[fe80::1]:443", "app", true},
		"comm=app,remote=10.0.4.9":        {"10.0.4.9:443", "app", true},
		" comm=app\tport=443 ":            {"10.0.4.9:443", "app", true},
		"comm=app,port=80":                {"10.0.4.9:443", "app", false},
		"remote=10.0.4.9,comm=other":      {"10.0.4.9:443", "app", false},
		"port=443,,remote=10.0.4.0/24,  ": {"10.0.4.9:443", "app", true},
	} {
		ignore := &Ignore{}
		if err := ignore.Add(rule); err != nil {
			t.Errorf("%s: %v", rule, err)
			continue
		}
		l := leakOf(sec)
		l.Tuple = tcp.Tuple{Local: netip.MustParseAddrPort(here), Remote: netip.MustParseAddrPort(c.remote)}
		d := Dead{Stray: owner.Stray{Local: l.Tuple.Local, Remote: l.Tuple.Remote}}
		if c.comm != "" {
			p := &owner.Process{Comm: c.comm}
			l.Holders, d.Process = held(p), p
		}
		if got := ignore.Leak(&l); got != c.want {
			t.Errorf("%s: leak ignored %v, want %v", rule, got, c.want)
		}
		if got := ignore.Dead(&d); got != c.want {
			t.Errorf("%s: dead fd ignored %v, want %v", rule, got, c.want)
		}
	}
}

func TestIgnoreRules(t *testing.T) {
	l := leakOf(sec, process(1, 0))
	var none *Ignore
	if none.Leak(&l) || none.Dead(&Dead{}) || (&Ignore{}).Leak(&l) {
		t.Error("without rules something is ignored")
	}
	two := &Ignore{}
	for _, rule := range []string{"comm=other", "port=443"} {
		if err := two.Add(rule); err != nil {
			t.Fatal(err)
		}
	}
	if !two.Leak(&l) {
		t.Error("one rule of two is not enough")
	}
	// A dead descriptor whose ends are not known.
	for rule, want := range map[string]bool{"comm=app": true, "port=443": false, "remote=0.0.0.0/0": false} {
		ignore := &Ignore{}
		if err := ignore.Add(rule); err != nil {
			t.Fatal(err)
		}
		d := Dead{Stray: owner.Stray{Holder: owner.Holder{Process: process(1, 0)}}}
		if got := ignore.Dead(&d); got != want {
			t.Errorf("%s: %v", rule, got)
		}
	}
}

func TestIgnoreErrors(t *testing.T) {
	for rule, want := range map[string]string{
		"":                         `"" says nothing`,
		" , ":                      `" , " says nothing`,
		"app":                      `"app" is none of`,
		"comm=":                    `"comm=" is none of`,
		"pid=1":                    `"pid=1" is none of`,
		"comm=tmux: server":        `"server" is none of`,
		"comm=0123456789abcdef":    `the kernel keeps 15 bytes of a name: "0123456789abcde"`,
		"port=":                    `port "" is not a number`,
		"port=0":                   `port "0" is not a number`,
		"port=65536":               `port "65536" is not a number`,
		"port=-1":                  `port "-1" is not a number`,
		"port=https":               `port "https" is not a number`,
		"remote=":                  `remote "" is no ADDRESS`,
		"remote=host":              `remote "host" is no ADDRESS`,
		"remote=10.0.4.9:":         `port "" is not a number`,
		"remote=10.0.4.9:0":        `port "0" is not a number`,
		"remote=10.0.4.9/33":       `remote "10.0.4.9/33" is no ADDRESS`,
		"remote=10.0.4.9/":         `remote "10.0.4.9/" is no ADDRESS`,
		"remote=::ffff:1.2.3.4/95": `is not a number`,
		"remote=[::1":              `remote "[::1" is no ADDRESS`,
		"remote=:443":              `remote ":443" is no ADDRESS`,
		"port=1,port=2":            `port 2: there is one already`,
		"comm=a,comm=b":            `comm=b: there is one already`,
		"remote=::1,remote=::2":    `remote ::2: there is one already`,
		"port=1,remote=1.1.1.1:2":  `port 2: there is one already`,
	} {
		ignore := &Ignore{}
		err := ignore.Add(rule)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %s", rule, err, want)
		}
		if len(ignore.rules) != 0 {
			t.Errorf("%q: became a rule", rule)
		}
	}
}

func TestIgnoreRead(t *testing.T) {
	ignore := &Ignore{}
	if err := ignore.Read(strings.NewReader("# pools\n\n  comm=app, port=5432  \r\n\t# more\nremote=10.0.0.0/8")); err != nil || len(ignore.rules) != 2 {
		t.Errorf("%d rules, %v", len(ignore.rules), err)
	}
	for text, want := range map[string]string{
		"comm=app\n\nport=x\n":                     "line 3: port",
		"comm=app # a pool":                        `line 1: "#" is none of`,
		"comm=app\n#" + strings.Repeat("x", 1<<17): "line 2: ",
	} {
		if err := new(Ignore).Read(strings.NewReader(text)); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%.20q: error %v, want %s", text, err, want)
		}
	}
}

func FuzzIgnore(f *testing.F) {
	for _, rule := range []string{"comm=app,port=443", "remote=[2001:db8::]/32:443", "remote=::ffff:10.0.0.0/104", "remote=10.0.0.0/8", "port=0"} {
		f.Add(rule)
	}
	f.Fuzz(func(t *testing.T, text string) {
		ignore := &Ignore{}
		if ignore.Add(text) != nil {
			return
		}
		r := ignore.rules[0]
		if r == (rule{}) || len(r.comm) > 15 || r.remote.IsValid() && (r.remote.Addr().Is4In6() || r.remote != r.remote.Masked()) {
			t.Errorf("%q became %+v", text, r)
		}
		l := leakOf(sec, process(1, 0)) // any rule can be tried
		ignore.Leak(&l)
	})
}
