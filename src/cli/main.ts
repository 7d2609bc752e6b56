/** The entry of the program `vmspool`. */
import { enableCompileCache } from 'node:module'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { guardStdout } from './stdout.ts'

// Compiled code is kept in a folder of the user's own: half the start-up time, and a quarter of the agent's memory.
// Without such a folder nothing is kept.
try {
  const { env } = process
  const root = process.getuid?.() === 0
  if (!env.NODE_COMPILE_CACHE)
    enableCompileCache(join(root ? '/var/cache' : (env.XDG_CACHE_HOME ?? join(homedir(), '.cache')), 'vmspool'))
} catch {
  // a user without a home
}

const args = process.argv.slice(2)
// `run` and `list` have ways of their own, which load no more than they need; their help comes from where all help comes from.
const done = await shortWay(args[0], args.slice(1))
if (done === undefined) {
  guardStdout()
  const { main } = await import('./program.ts')
  process.exitCode = await main(args)
} else process.exitCode = done

async function shortWay(command: string | undefined, rest: string[]): Promise<number | undefined> {
  try {
    if (command === 'run') return await (await import('./run-now.ts')).runNow(rest)
    if (command === 'list') return await (await import('./list-now.ts')).listNow(rest)
    return undefined
  } catch (error) {
    const { reportError } = await import('./errors.ts')
    return reportError(error)
  }
}
