// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"time"
)

// burst is how many sockets a program holds in CLOSE_WAIT when it dies.
const burst = 5_000

// account holds the rows of watch against what the load has made: each transition is a row,
// or counted as lost.
func (o *options) account(w, progress io.Writer, dir string) error {
	fmt.Fprintf(w, "\n### Every transition is told, or counted as lost\n\n"+
		"`watch` of the load's netns, text to a file; %d flat-out runs and %d bursts (%d sockets in CLOSE_WAIT, then SIGKILL).\n\n"+
		"| run | transitions made | rows | lost, as watch says | unaccounted |\n|---|---:|---:|---|---:|\n", o.runs, o.runs, burst)
	for _, p := range []plan{{Kind: "client", Connections: o.flatOut}, {Kind: "leak", Connections: burst}} {
		for i := range o.runs {
			fmt.Fprintf(progress, "run %d of %d: what becomes of %d connections (%s)\n", i+1, o.runs, p.Connections, p.Kind)
			made, rows, lost, err := o.accountOf(p, dir)
			if err != nil {
				return err
			}
			n := made - rows
			fmt.Fprintf(w, "| %s %d | %d | %d | %s | %d |\n", map[string]string{"client": "flat out", "leak": "burst"}[p.Kind], i+1, made, rows, lost, n)
		}
	}
	return nil
}

var lostInSummary = regexp.MustCompile(`(?m)^[\d,]+ transitions in [^,]+, (.*), own CPU`)

func (o *options) accountOf(p plan, dir string) (made, rows int, lost string, err error) {
	l, err := startLoad(p)
	if err != nil {
		return 0, 0, "", err
	}
	defer l.kill()
	// The netns outlives the load: its end would end its sockets.
	netns, err := os.Open(l.netns)
	if err != nil {
		return 0, 0, "", err
	}
	defer netns.Close()
	s := watch(o.program, "", true, "--netns", fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), netns.Fd()))
	tracer, err := start(&s, dir)
	if err != nil {
		return 0, 0, "", err
	}
	defer tracer.kill()
	done, err := l.run()
	if err != nil {
		return 0, 0, "", err
	}
	made = done.Connections*kinds[p.Kind].transitions + done.Listeners // CLOSE→LISTEN
	if p.Kind == "leak" {
		l.kill()
		made += done.Listeners // LISTEN→CLOSE
	}
	settled(filepath.Join(dir, "stdout"))
	_, told, err := tracer.stop()
	rows = told["→"] - told["TIME_WAIT→"] - 1 // the line above the rows has one
	said := lostInSummary.FindStringSubmatch(tracer.stderr.String())
	if err == nil && said == nil {
		err = fmt.Errorf("no summary from watch: %s", tracer.stderr)
	}
	if err != nil {
		return 0, 0, "", err
	}
	return made, rows, said[1], nil
}

// settled waits until a file has not grown for a second: FINs that are acknowledged late are
// told late.
func settled(name string) {
	var size int64 = -1
	for quiet := 0; quiet < 10; quiet++ {
		if info, err := os.Stat(name); err == nil && info.Size() != size {
			size, quiet = info.Size(), 0
		}
		time.Sleep(100 * time.Millisecond)
	}
}
