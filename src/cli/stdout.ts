/**
 * MUST be called before the first word on stdout: a reader that goes away (`vmspool list | head -1`) is not an error of ours; a full
 * disk is one, and is said in a sentence. Not sooner than needed: Node makes stdout when it is first looked at, which takes time.
 */
export function guardStdout(): void {
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit()
    process.stderr.write(`vmspool: What it prints cannot be written: ${error.message}.\n`)
    process.exit(74) // exitCodes.io
  })
}
