/** The entry of the program `vmspool`. */
import { argv, stdout } from 'node:process'
import { main } from './program.ts'

// A reader that goes away (`vmspool list | head -1`) is not an error of ours.
stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(0)
  throw error
})

process.exitCode = await main(argv.slice(2))
