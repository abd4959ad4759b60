// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"time"

	"github.com/spf13/cobra"

	"afterfin/internal/view"
)

// assertOptions are the flags of assert, checked.
type assertOptions struct {
	limit    time.Duration
	timeWait int // -1: not asked for
	leakExit int
	noBPF    bool
	output   string
	report   string // a file; empty: stderr; "-": stdout
}

// Exit codes of shells (and of env, nice, timeout) about the command itself.
const (
	exitCannotRun = 126
	exitNotFound  = 127
	exitSignal    = 128 // and the number of the signal
)

func assertCommand(e env) *cobra.Command {
	var o assertOptions
	cmd := &cobra.Command{
		Use:   "assert --max-close-wait-age D [flags] -- COMMAND [ARGS...]",
		Short: "Run a command and fail if it, or a process it starts, leaks CLOSE_WAIT sockets",
		Long: "Runs a command, a test suite say, and exits with its exit code; or with 3 (--leak-exit) if a socket\n" +
			"of it, or of any process it started, stayed in CLOSE_WAIT for the given time or longer, also one that\n" +
			"was closed before the end. A command killed by a signal gives 128 and the signal's number, one that is\n" +
			"not found 127, one that cannot be run 126, as in a shell.\n" +
			"With BPF every CLOSE_WAIT is seen, its age is exact, and the line of code that made it is named.\n" +
			"Without the privilege or the kernel for it, sockets and descriptors are looked at every quarter of\n" +
			"that time (50 ms to 1 s): a CLOSE_WAIT that outlives it by less than that and is closed then may be\n" +
			"missed.\n" +
			"stdin, stdout and stderr are the command's. What assert has to say comes on stderr, at the end (but\n" +
			"for a line where it begins and ends to look closely at a process that leaks); with -o json it is one\n" +
			"line, the last. A script should take it from a file: --report.\n" +
			"SIGINT, SIGTERM, SIGHUP and SIGQUIT are passed on to the command, once each; it is then waited for.\n" +
			"What lives on when the command has ended is looked at once more, and left alone.",
		Example: "  afterfin assert --max-close-wait-age 5s -- go test ./...\n" +
			"  sudo afterfin assert --max-close-wait-age 5s -o json --report leaks.json -- sudo -u \"$USER\" make test",
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.check(cmd.Flags().Changed("max-time-wait")); err != nil {
				return err
			}
			if len(args) == 0 {
				return usage("no command to run: assert --max-close-wait-age 5s -- COMMAND [ARGS...]")
			}
			return assert(e, &o, args)
		},
	}
	flags := cmd.Flags()
	flags.SetInterspersed(false) // what comes behind the command's name is the command's
	addOutput(cmd, &o.output)
	flags.DurationVar(&o.limit, "max-close-wait-age", 0, "how long a socket may be in CLOSE_WAIT, e.g. 5s (required)")
	flags.IntVar(&o.timeWait, "max-time-wait", 0, "also fail if more sockets than this that the command connected are in TIME_WAIT at once; needs BPF")
	flags.IntVar(&o.leakExit, "leak-exit", exitThreshold, "exit code for a leak, 1 to 255")
	flags.BoolVar(&o.noBPF, "no-bpf", false, "look every now and then, also where BPF could be had")
	flags.StringVar(&o.report, "report", "", "write the result to this file too, text or (-o json) one JSON document; - is stdout")
	return cmd
}

func (o *assertOptions) check(timeWait bool) error {
	if err := checkOutput(o.output); err != nil {
		return err
	}
	if o.limit <= 0 {
		return usage("--max-close-wait-age: a duration above 0 is needed, like 5s")
	}
	if o.leakExit < 1 || o.leakExit > 255 {
		return usage("--leak-exit: %d is not a number from 1 to 255", o.leakExit)
	}
	switch {
	case !timeWait:
		o.timeWait = -1
	case o.timeWait < 0:
		return usage("--max-time-wait: %d is negative", o.timeWait)
	case o.noBPF:
		return usage("--max-time-wait needs BPF: --no-bpf excludes it")
	}
	return nil
}

// assert runs the command and says what came of it.
func assert(e env, o *assertOptions, args []string) error {
	command := exec.Command(args[0], args[1:]...)
	if errors.Is(command.Err, exec.ErrDot) { // a shell would run it
		command.Err = nil
	}
	if command.Err != nil {
		return cannotStart(args[0], command.Err)
	}
	report, err := openReport(e, o.report)
	if err != nil {
		return usage("--report: %w", err)
	}
	defer report.Close()
	a, watched, err := watchCommandTree(e, o, command)
	if err != nil {
		return err
	}
	a.Command, a.Exit = args, a.Status
	if a.Exit == exitOK && watched != nil {
		a.Exit = exitRuntime
	}
	if a.Leaked() {
		a.Exit = o.leakExit
	}
	if watched != nil {
		fmt.Fprintf(e.stderr, "error: watching ended before the command did: %v\n", watched)
	}
	if err := o.write(e, report, a); err != nil {
		return &failure{code: exitRuntime, err: err}
	}
	if a.Exit != exitOK {
		return &failure{code: a.Exit}
	}
	return nil
}

// write gives the result to who asked for it, and the last line to the reader of stderr.
func (o *assertOptions) write(e env, report io.Writer, a *view.Assertion) error {
	if o.report != "" {
		if err := o.writeTo(report, a); err != nil {
			return fmt.Errorf("write report: %w", err)
		}
	}
	if o.output == "json" && o.report == "" {
		return o.writeTo(e.stderr, a)
	}
	if err := view.WriteAssertion(e.stderr, a); err != nil {
		return err
	}
	if a.Leaked() {
		fmt.Fprintf(e.stderr, "error: %s; exit code %d, the command's own is %d\n", a.Reason(), a.Exit, a.Status)
	}
	return nil
}

func (o *assertOptions) writeTo(w io.Writer, a *view.Assertion) error {
	if o.output == "json" {
		return view.WriteAssertionJSON(w, a, time.Now())
	}
	word := "ok: no limit was passed"
	if a.Leaked() {
		word = "failed: " + a.Reason()
	}
	if _, err := fmt.Fprintf(w, "%s; exit code %d, the command's own is %d\n", word, a.Exit, a.Status); err != nil {
		return err
	}
	return view.WriteAssertion(w, a)
}

// openReport opens the file before the command runs: a typo shall not cost the run.
func openReport(e env, path string) (io.WriteCloser, error) {
	if path == "" || path == "-" {
		return keepOpen{e.stdout}, nil
	}
	return os.Create(path)
}

// keepOpen is a writer that is not ours to close.
type keepOpen struct{ io.Writer }

func (keepOpen) Close() error { return nil }

// cannotStart is the error for a command that did not come to run.
func cannotStart(name string, err error) error {
	f := &failure{code: exitCannotRun}
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		f.code = exitNotFound
	}
	var reason error = err
	var inPath *exec.Error
	var onDisk *fs.PathError
	switch { // both name the file once more
	case errors.As(err, &inPath):
		reason = inPath.Err
	case errors.As(err, &onDisk):
		reason = onDisk.Err
	}
	f.err = fmt.Errorf("cannot run %q: %w", name, reason)
	return f
}
