import { type ErrorCode, isLibvirtError } from './errors.ts'
import {
  bits,
  type FlagsOf,
  ListPoolsFlags,
  PoolBuildFlags,
  PoolStartFlags,
  StorageXmlFlags,
  VolumeCreateFlags,
  VolumeDeleteFlags,
  VolumeResizeFlags,
} from './flags.ts'
import { type PoolStateName, poolState, type VolumeTypeName, volumeType } from './names.ts'
import type { Call, CallOptions } from './procedure.ts'
import * as p from './procedures/storage.ts'
import type { Pool, Volume } from './structs.ts'

export interface PoolInfo extends Omit<p.RawPoolInfo, 'state'> {
  state: PoolStateName
}
export interface VolumeInfo extends Omit<p.RawVolumeInfo, 'type'> {
  type: VolumeTypeName
}

async function found<T>(value: Promise<T>, missing: keyof typeof ErrorCode): Promise<T | undefined> {
  try {
    return await value
  } catch (error) {
    if (isLibvirtError(error, missing)) return undefined
    throw error
  }
}

export function poolCalls(call: Call) {
  return {
    list: async (flags?: FlagsOf<typeof ListPoolsFlags>, o?: CallOptions) =>
      call(p.listAllPools, [bits(ListPoolsFlags, flags)], o),
    /** undefined when there is none */
    byName: async (name: string, o?: CallOptions) => found(call(p.poolLookupByName, [name], o), 'no_pool'),
    byUuid: async (uuid: string, o?: CallOptions) => found(call(p.poolLookupByUuid, [uuid], o), 'no_pool'),
    ofVolume: async (v: Volume, o?: CallOptions) => call(p.poolLookupByVolume, [v], o),
    define: async (xml: string, o?: CallOptions) => call(p.poolDefine, [xml, 0], o),
    /** Makes what it stands on: the folder, the file system. */
    build: async (x: Pool, flags?: FlagsOf<typeof PoolBuildFlags>, o?: CallOptions) =>
      call(p.poolBuild, [x, bits(PoolBuildFlags, flags)], o),
    /** Starts a defined pool. */
    create: async (x: Pool, flags?: FlagsOf<typeof PoolStartFlags>, o?: CallOptions) =>
      call(p.poolCreate, [x, bits(PoolStartFlags, flags)], o),
    /** Starts one that is gone when it is stopped. */
    createTransient: async (xml: string, flags?: FlagsOf<typeof PoolStartFlags>, o?: CallOptions) =>
      call(p.poolCreateXml, [xml, bits(PoolStartFlags, flags)], o),
    /** Stops it. Its volumes stay where they are. */
    destroy: async (x: Pool, o?: CallOptions) => call(p.poolDestroy, [x], o),
    /** Removes what `build` made. It must be stopped. */
    delete: async (x: Pool, o?: CallOptions) => call(p.poolDelete, [x, 0], o),
    undefine: async (x: Pool, o?: CallOptions) => call(p.poolUndefine, [x], o),
    /** Looks for volumes that came and went behind libvirt's back. */
    refresh: async (x: Pool, o?: CallOptions) => call(p.poolRefresh, [x, 0], o),
    async info(x: Pool, o?: CallOptions): Promise<PoolInfo> {
      const info = await call(p.poolGetInfo, [x], o)
      return { ...info, state: poolState(info.state) }
    },
    xml: async (x: Pool, flags?: FlagsOf<typeof StorageXmlFlags>, o?: CallOptions) =>
      call(p.poolGetXml, [x, bits(StorageXmlFlags, flags)], o),
    isActive: async (x: Pool, o?: CallOptions) => call(p.poolIsActive, [x], o),
    isPersistent: async (x: Pool, o?: CallOptions) => call(p.poolIsPersistent, [x], o),
    autostart: async (x: Pool, o?: CallOptions) => call(p.poolGetAutostart, [x], o),
    setAutostart: async (x: Pool, on: boolean, o?: CallOptions) => call(p.poolSetAutostart, [x, on], o),
    volumes: async (x: Pool, o?: CallOptions) => call(p.poolListVolumes, [x, 0], o),
  }
}

export function volumeCalls(call: Call) {
  return {
    /** undefined when there is none */
    byName: async (x: Pool, name: string, o?: CallOptions) =>
      found(call(p.volumeLookupByName, [x, name], o), 'no_volume'),
    byKey: async (key: string, o?: CallOptions) => found(call(p.volumeLookupByKey, [key], o), 'no_volume'),
    byPath: async (path: string, o?: CallOptions) => found(call(p.volumeLookupByPath, [path], o), 'no_volume'),
    create: async (x: Pool, xml: string, flags?: FlagsOf<typeof VolumeCreateFlags>, o?: CallOptions) =>
      call(p.volumeCreateXml, [x, xml, bits(VolumeCreateFlags, flags)], o),
    /** A copy of `from`, which may lie in another pool. It takes as long as the copy does: give it a deadline. */
    createFrom: async (
      x: Pool,
      xml: string,
      from: Volume,
      flags?: FlagsOf<typeof VolumeCreateFlags>,
      o?: CallOptions,
    ) => call(p.volumeCreateFrom, [x, xml, from, bits(VolumeCreateFlags, flags)], o),
    delete: async (v: Volume, flags?: FlagsOf<typeof VolumeDeleteFlags>, o?: CallOptions) =>
      call(p.volumeDelete, [v, bits(VolumeDeleteFlags, flags)], o),
    resize: async (v: Volume, capacity_bytes: number, flags?: FlagsOf<typeof VolumeResizeFlags>, o?: CallOptions) =>
      call(p.volumeResize, [v, capacity_bytes, bits(VolumeResizeFlags, flags)], o),
    async info(v: Volume, o?: CallOptions): Promise<VolumeInfo> {
      const info = await call(p.volumeGetInfo, [v], o)
      return { ...info, type: volumeType(info.type) }
    },
    xml: async (v: Volume, o?: CallOptions) => call(p.volumeGetXml, [v, 0], o),
    path: async (v: Volume, o?: CallOptions) => call(p.volumeGetPath, [v], o),
  }
}
