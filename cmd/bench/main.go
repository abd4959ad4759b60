// SPDX-License-Identifier: Apache-2.0

// Command bench measures what tracing costs: afterfin and its rivals beside the same load, each
// run next to one of the load alone, so that every figure compares neighbours in time. It needs
// root. make bench runs it.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"afterfin/internal/lab"
)

func main() {
	lab.Main()
	var err error
	if len(os.Args) > 1 && os.Args[1] == "load" {
		err = loadProcess(os.Args[2:])
	} else {
		err = run(os.Stdout, os.Stderr, os.Args[1:])
	}
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(0)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "error: %v\n", err)
		os.Exit(1)
	}
}

// options are what the command line asks for.
type options struct {
	program     string
	rounds      int
	connections int
	only        string
	runs        int
	flatOut     int
	write       string
}

func run(stdout, stderr io.Writer, args []string) error {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.program, "program", "bin/afterfin", "our own program")
	flags.IntVar(&o.rounds, "rounds", 5, "rounds for the table of costs; 0: no such table")
	flags.IntVar(&o.connections, "connections", 100_000, "connections in each run")
	flags.StringVar(&o.only, "only", "", "only subjects whose name has this in it")
	flags.IntVar(&o.runs, "runs", 5, "flat-out runs, and bursts, that look for what is lost; 0: none")
	flags.IntVar(&o.flatOut, "flat-out", 500_000, "connections in each of those")
	flags.StringVar(&o.write, "write", "", "put the figures into this Markdown file, between its two marks, too")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("tracing needs root: sudo make bench")
	}
	dir, err := os.MkdirTemp("", "afterfin-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var figures bytes.Buffer
	if err := o.measureAll(io.MultiWriter(stdout, &figures), stderr, dir); err != nil {
		return err
	}
	if o.write == "" {
		return nil
	}
	return insert(o.write, figures.String())
}

func (o *options) measureAll(w, progress io.Writer, dir string) error {
	fmt.Fprintf(w, "%s\n", machine())
	if o.rounds > 0 {
		results, err := o.costs(progress, dir)
		if err != nil {
			return err
		}
		costTable(w, results)
		if err := o.kindTable(w, progress, dir); err != nil {
			return err
		}
		if err := o.lookTable(w, progress); err != nil {
			return err
		}
		idle, err := o.idle(progress, dir)
		if err != nil {
			return err
		}
		gates(w, results, idle)
	}
	if o.runs > 0 {
		return o.account(w, progress, dir)
	}
	return nil
}

const (
	beginMark = "<!-- figures of make bench -->"
	endMark   = "<!-- end of them -->"
)

// insert puts the figures between the two marks of a file.
func insert(name, figures string) error {
	raw, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	head, rest, ok := strings.Cut(string(raw), beginMark)
	_, tail, also := strings.Cut(rest, endMark)
	if !ok || !also {
		return fmt.Errorf("%s lacks %q and %q", name, beginMark, endMark)
	}
	return os.WriteFile(name, []byte(head+beginMark+"\n"+figures+endMark+tail), 0o644)
}
