/** Numbers and structures: libvirt's src/remote/remote_protocol.x, written down as facts. */
import { nothing, procedure, slowProcedure } from '../procedure.ts'
import {
  LIST_MAX,
  NAMED_LEAST,
  type Pool,
  readNamed,
  readVolume,
  VOLUME_LEAST,
  type Volume,
  writeNamed,
  writeUuid,
  writeVolume,
} from '../structs.ts'
import type { XdrReader, XdrWriter } from '../xdr.ts'

const pool = (w: XdrWriter, p: Pool): void => writeNamed(w, p)
const poolAndFlags = (w: XdrWriter, p: Pool, flags: number): void => {
  writeNamed(w, p)
  w.uint(flags)
}
const volume = (w: XdrWriter, v: Volume): void => writeVolume(w, v)
const volumeAndFlags = (w: XdrWriter, v: Volume, flags: number): void => {
  writeVolume(w, v)
  w.uint(flags)
}
const xmlAndFlags = (w: XdrWriter, xml: string, flags: number): void => void w.string(xml).uint(flags)
const truth = (r: XdrReader): boolean => r.int() !== 0

export const poolCreateXml = slowProcedure(76, 'STORAGE_POOL_CREATE_XML', xmlAndFlags, readNamed)
export const poolDefine = procedure(77, 'STORAGE_POOL_DEFINE_XML', xmlAndFlags, readNamed)
export const poolCreate = slowProcedure(78, 'STORAGE_POOL_CREATE', poolAndFlags, nothing)
export const poolBuild = slowProcedure(79, 'STORAGE_POOL_BUILD', poolAndFlags, nothing)
export const poolDestroy = slowProcedure(80, 'STORAGE_POOL_DESTROY', pool, nothing)
export const poolDelete = slowProcedure(81, 'STORAGE_POOL_DELETE', poolAndFlags, nothing)
export const poolUndefine = procedure(82, 'STORAGE_POOL_UNDEFINE', pool, nothing)
export const poolRefresh = slowProcedure(83, 'STORAGE_POOL_REFRESH', poolAndFlags, nothing)
export const poolLookupByName = procedure(
  84,
  'STORAGE_POOL_LOOKUP_BY_NAME',
  (w, name: string) => void w.string(name),
  readNamed,
)
export const poolLookupByUuid = procedure(
  85,
  'STORAGE_POOL_LOOKUP_BY_UUID',
  (w, uuid: string) => writeUuid(w, uuid),
  readNamed,
)
export const poolLookupByVolume = procedure(86, 'STORAGE_POOL_LOOKUP_BY_VOLUME', volume, readNamed)

export interface RawPoolInfo {
  state: number
  capacity_bytes: number
  allocation_bytes: number
  available_bytes: number
}
export const poolGetInfo = procedure(
  87,
  'STORAGE_POOL_GET_INFO',
  pool,
  (r): RawPoolInfo => ({
    state: r.uint(),
    capacity_bytes: r.uhyperNumber(),
    allocation_bytes: r.uhyperNumber(),
    available_bytes: r.uhyperNumber(),
  }),
)
export const poolGetXml = procedure(88, 'STORAGE_POOL_GET_XML_DESC', poolAndFlags, (r) => r.string())
export const poolGetAutostart = procedure(89, 'STORAGE_POOL_GET_AUTOSTART', pool, truth)
export const poolSetAutostart = procedure(
  90,
  'STORAGE_POOL_SET_AUTOSTART',
  (w, p: Pool, on: boolean) => {
    writeNamed(w, p)
    w.int(on ? 1 : 0)
  },
  nothing,
)
export const volumeCreateXml = slowProcedure(
  93,
  'STORAGE_VOL_CREATE_XML',
  (w, p: Pool, xml: string, flags: number) => {
    writeNamed(w, p)
    w.string(xml).uint(flags)
  },
  readVolume,
)
export const volumeDelete = slowProcedure(94, 'STORAGE_VOL_DELETE', volumeAndFlags, nothing)
export const volumeLookupByName = procedure(
  95,
  'STORAGE_VOL_LOOKUP_BY_NAME',
  (w, p: Pool, name: string) => {
    writeNamed(w, p)
    w.string(name)
  },
  readVolume,
)
export const volumeLookupByKey = procedure(
  96,
  'STORAGE_VOL_LOOKUP_BY_KEY',
  (w, key: string) => void w.string(key),
  readVolume,
)
export const volumeLookupByPath = procedure(
  97,
  'STORAGE_VOL_LOOKUP_BY_PATH',
  (w, path: string) => void w.string(path),
  readVolume,
)

export interface RawVolumeInfo {
  type: number
  capacity_bytes: number
  allocation_bytes: number
}
export const volumeGetInfo = procedure(
  98,
  'STORAGE_VOL_GET_INFO',
  volume,
  (r): RawVolumeInfo => ({ type: r.int(), capacity_bytes: r.uhyperNumber(), allocation_bytes: r.uhyperNumber() }),
)
export const volumeGetXml = procedure(99, 'STORAGE_VOL_GET_XML_DESC', volumeAndFlags, (r) => r.string())
export const volumeGetPath = procedure(100, 'STORAGE_VOL_GET_PATH', volume, (r) => r.string())
export const volumeCreateFrom = slowProcedure(
  125,
  'STORAGE_VOL_CREATE_XML_FROM',
  (w, p: Pool, xml: string, from: Volume, flags: number) => {
    writeNamed(w, p)
    w.string(xml)
    writeVolume(w, from)
    w.uint(flags)
  },
  readVolume,
)
export const poolIsActive = procedure(154, 'STORAGE_POOL_IS_ACTIVE', pool, truth)
export const poolIsPersistent = procedure(155, 'STORAGE_POOL_IS_PERSISTENT', pool, truth)
export const volumeResize = slowProcedure(
  260,
  'STORAGE_VOL_RESIZE',
  (w, v: Volume, capacity_bytes: number, flags: number) => {
    writeVolume(w, v)
    w.uhyper(BigInt(capacity_bytes)).uint(flags)
  },
  nothing,
)
export const listAllPools = procedure(
  281,
  'CONNECT_LIST_ALL_STORAGE_POOLS',
  (w, flags: number) => void w.int(1).uint(flags),
  (r): Pool[] => {
    const pools = r.array(LIST_MAX, NAMED_LEAST, readNamed)
    r.uint() // their number once more
    return pools
  },
)
export const poolListVolumes = procedure(
  282,
  'STORAGE_POOL_LIST_ALL_VOLUMES',
  (w, p: Pool, flags: number) => {
    writeNamed(w, p)
    w.int(1).uint(flags)
  },
  (r): Volume[] => {
    const volumes = r.array(LIST_MAX, VOLUME_LEAST, readVolume)
    r.uint() // their number once more
    return volumes
  },
)
