import { rmdir, stat } from 'node:fs/promises'
import { hostname } from 'node:os'
import { dirname, join } from 'node:path'
import type { Place } from '../../client/place.ts'
import { promisesDir, runtimeDir } from '../../agent/runtime-dir.ts'
import { openVms, VmError, type Vms, vmsDir } from '../../vm/index.ts'

/**
 * The VM service of an instance, in this process: for a conversion without an agent that is to define its VM. The registry is shared with agents
 * of the instance, so only its own user may open it.
 * @throws VmError registry when this user or host has no VMs of that instance
 */
export async function vmsHere(place: Place): Promise<Vms> {
  const { config, instance, layout } = place
  const dir = vmsDir(config, layout.output)
  await ours(dir, config.vm.dir === undefined ? layout.output : dirname(dir), instance)
  const runtime = runtimeDir(config.runtime_dir, instance)
  const promises = promisesDir(runtime)
  const quiet = { info: () => {}, warn: () => {}, error: () => {} }
  const host = hostname()
  const vms = await openVms({
    instance,
    host,
    dir,
    runtimeDir: runtime,
    promisesDir: promises.dir,
    config: () => config,
    log: quiet,
  })
  return {
    ...vms,
    async [Symbol.asyncDispose]() {
      await vms[Symbol.asyncDispose]()
      // unless an agent uses it
      for (const folder of [join(runtime, 'vm-locks'), runtime]) await rmdir(folder).catch(() => {})
    },
  }
}

async function ours(dir: string, parent: string, instance: string): Promise<void> {
  const there = (await stat(dir).catch(() => undefined)) ?? (await stat(parent).catch(() => undefined))
  const refuse = (why: string): never => {
    throw new VmError(`The VMs of the instance "${instance}" lie in ${dir}, and ${why}.`, {
      code: 'registry',
      hint: 'Let the agent of the instance do it (vmspool submit), name another instance (--instance, --root), or define the VM by hand: virsh define <name>.xml.',
    })
  }
  if (!there) return refuse(`there is no folder ${parent}`)
  const me = process.geteuid?.()
  if (me !== undefined && there.uid !== me) refuse(`that belongs to the user ${there.uid}, not to you (${me})`)
}
