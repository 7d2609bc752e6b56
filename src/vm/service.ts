/**
 * The VM service: what can be done with VMs, on a connection to libvirt that mends itself, a registry, a cache of images and an admission that
 * all actions share. One per process; it knows no jobs and no spool.
 */
import { join } from 'node:path'
import type { Config } from '../config/index.ts'
import type { Logger } from '../observe/index.ts'
import type { VmParts } from './action.ts'
import { type Admission, openAdmission } from './admission.ts'
import { createVm, type LateSpec } from './create.ts'
import { defineVm } from './define.ts'
import type { DefineResult, DefineSpec } from './define-types.ts'
import { imagesDir, type ImageStore, openImages } from './images/index.ts'
import { type LinkOptions, openLink, type VmLink } from './link.ts'
import { openLocks } from './lock.ts'
import { openRegistry, type Registry } from './registry.ts'
import { type RemoveOptions, removeVm } from './remove.ts'
import { restartVm } from './restart.ts'
import { type StartOptions, startVm } from './start.ts'
import { type StopOptions, stopVm } from './stop.ts'
import type { VmHooks, VmOrder, VmRecord, VmResult, VmSpec } from './types.ts'

export interface VmsOptions {
  instance: string
  host: string
  /** of the VMs, absolute; see {@link vmsDir} */
  dir: string
  /** of this instance on this host, local */
  runtimeDir: string
  /** of promises about the host's resources: the same for all instances of this host */
  promisesDir: string
  /** as it is now */
  config(): Config
  log: Pick<Logger, 'info' | 'warn' | 'error'>
  /** for tests: how long libvirt may take */
  connection?: Pick<LinkOptions, 'breaker' | 'retry_ms' | 'connection'>
}

export interface Vms extends AsyncDisposable {
  /** Each @throws VmError; the signal's reason */
  create(order: VmOrder, spec: VmSpec | LateSpec, hooks: VmHooks): Promise<VmResult>
  start(order: VmOrder, name: string, o: StartOptions, hooks: VmHooks): Promise<VmResult>
  stop(order: VmOrder, name: string, o: StopOptions, hooks: VmHooks): Promise<VmResult>
  restart(order: VmOrder, name: string, o: StartOptions & StopOptions, hooks: VmHooks): Promise<VmResult>
  remove(order: VmOrder, name: string, o: RemoveOptions, hooks: VmHooks): Promise<VmResult>
  /** the define step of a conversion */
  define(order: VmOrder, spec: DefineSpec, hooks: VmHooks): Promise<DefineResult>
  /** as the registry has them */
  list(): Promise<VmRecord[]>
  readonly dir: string
  readonly registry: Registry
  readonly link: VmLink
  readonly images: ImageStore
  readonly admission: Admission
}

/** @throws VmError registry when the folder of the VMs cannot be read or written */
export async function openVms(o: VmsOptions): Promise<Vms> {
  const { instance, host, dir, log } = o
  const config = o.config()
  const registry = await openRegistry({
    dir,
    instance,
    host,
    log: (level, event, fields) => log[level](event, fields),
  })
  const images = openImages({
    dir: imagesDir(config, dir),
    log,
    // a reload changes these
    get templates() {
      return o.config().templates
    },
    get max_bytes() {
      return o.config().images.max_bytes
    },
    get max_age() {
      return o.config().images.max_age
    },
    get reserve_bytes() {
      return o.config().space.reserve_bytes
    },
    get max_virtual_size() {
      return o.config().convert.max_virtual_size
    },
  })
  const admission = openAdmission({
    dir: o.promisesDir,
    vmDir: dir,
    config: () => o.config().vm,
    records: () => registry.all(),
  })
  const link = openLink({ uri: config.libvirt.uri, log, ...o.connection })
  const parts: VmParts = {
    instance,
    host,
    dir,
    log,
    registry,
    link,
    images,
    admission,
    locks: openLocks(join(o.runtimeDir, 'vm-locks')),
  }
  return {
    create: (order, spec, hooks) => createVm(parts, order, spec, hooks),
    start: (order, name, how, hooks) => startVm(parts, order, name, how, hooks),
    stop: (order, name, how, hooks) => stopVm(parts, order, name, how, hooks),
    restart: (order, name, how, hooks) => restartVm(parts, order, name, how, hooks),
    remove: (order, name, how, hooks) => removeVm(parts, order, name, how, hooks),
    define: (order, spec, hooks) => defineVm(parts, order, spec, hooks),
    list: () => registry.all(),
    dir,
    registry,
    link,
    images,
    admission,
    [Symbol.asyncDispose]: () => link[Symbol.asyncDispose](),
  }
}

/** Where the VMs of an instance lie. */
export const vmsDir = (config: Pick<Config, 'vm'>, output: string): string => config.vm.dir ?? join(output, 'vms')
