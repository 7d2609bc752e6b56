import { rmdir } from 'node:fs/promises'
import type { Config } from '../config/index.ts'
import type { Spool } from '../spool/index.ts'
import { AgentError } from './errors.ts'
import { type LockResult, lockFolder, lockHost } from './host-lock.ts'
import { runtimeDir } from './runtime-dir.ts'

export interface Place {
  /** for sockets */
  dir: string
  release(): Promise<void>
}

/**
 * The place of the main agent on this host, and a folder for its sockets.
 * @throws AgentError 75 when another one has it, 78 when an agent of another instance has the output folder
 */
export async function takePlace(spool: Spool, config: Config): Promise<Place> {
  const { layout } = spool
  const holder = { pid: process.pid, since: new Date().toISOString() }
  const main = await lockHost(layout.jobs, layout.daemon, holder)
  if (!main.held) {
    const who = main.holder
      ? `pid ${main.holder.pid}, since ${main.holder.since}`
      : 'it does not answer; it may be stopped'
    throw new AgentError(
      `The main agent of the instance "${layout.instance}" in ${layout.root} runs already on this host (${who}). ` +
        'Stop it first, or join it with --worker.',
      75,
    )
  }
  // Answers of two instances would replace each other: nothing orders jobs of one name across instances.
  const output = await lockHost(layout.output, layout.daemon, holder)
  if (!output.held) {
    await main.release()
    throw new AgentError(
      `An agent of another instance${output.holder ? ` (pid ${output.holder.pid}, since ${output.holder.since})` : ''} works with the same output folder, ${layout.output}. ` +
        `Give the instance "${layout.instance}" one of its own: "output:" (and "queue:") belong into agent@${layout.instance}.yaml, not into agent.yaml, which all instances read.`,
      78,
    )
  }
  let dir = runtimeDir(config.runtime_dir, layout.instance)
  let folder: LockResult = await lockFolder(dir, holder)
  for (let n = 2; !folder.held; n++) {
    // Another spool with an instance of this name lives here: the link in its output tells clients which folder is whose.
    dir = runtimeDir('', `${layout.instance}.${n}`)
    folder = await lockFolder(dir, holder)
  }
  const held = folder
  return {
    dir,
    release: async () => {
      await rmdir(dir).catch(() => {}) // ours alone, and empty by now
      await held.release()
      await output.release()
      await main.release()
    },
  }
}
