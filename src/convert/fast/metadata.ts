import type { FileHandle } from 'node:fs/promises'
import {
  CLUSTER,
  L2_ENTRIES,
  putPlainEntry,
  qcow2Header,
  REFCOUNTS_PER_BLOCK,
  refcountClusters,
} from '../../images/index.ts'
import type { GrainMap } from '../../images/index.ts'

/** Where L1 and the L2 tables lie. Tables of 512 MiB without data do not exist. */
export interface TablePlaces {
  l1_cluster: number
  l1_size: number
  /** cluster of each L2 table, 0 for none */
  l2: Uint32Array<SharedArrayBuffer>
  /** first cluster behind them */
  end: number
}

const TABLES_PER_L2 = 16

/** @param at the first cluster to be used */
export function placeTables(map: GrainMap, virtualSize: number, at: number): TablePlaces {
  const size = Math.ceil(virtualSize / (CLUSTER * L2_ENTRIES))
  const l2 = new Uint32Array(new SharedArrayBuffer(size * 4))
  let next = at + Math.ceil((size * 8) / CLUSTER)
  for (let i = 0; i < size; i++) {
    const tables = map.directory.subarray(i * TABLES_PER_L2, (i + 1) * TABLES_PER_L2)
    if (tables.some((t) => t !== 0)) l2[i] = next++
  }
  return { l1_cluster: at, l1_size: size, l2, end: next }
}

/**
 * Writes L1, refcounts and header around what the workers wrote, in the order that makes a crash harmless: everything but the header, fsync,
 * the header, fsync. Until then the file is no qcow2 to anybody.
 * @param o.refcount of each cluster below `end`
 */
export async function finishQcow2(
  file: FileHandle,
  o: {
    virtual_size: number
    tables: TablePlaces
    /** first cluster behind all data and tables */
    end: number
    refcount(cluster: number): number
    signal: AbortSignal
  },
): Promise<void> {
  await writeL1(file, o.tables)
  const { blocks, table } = refcountClusters(o.end)
  const total = o.end + blocks + table
  await file.truncate(total * CLUSTER)
  const list = Buffer.alloc(table * CLUSTER)
  for (let b = 0; b < blocks; b++) {
    o.signal.throwIfAborted()
    const block = Buffer.alloc(CLUSTER)
    const from = b * REFCOUNTS_PER_BLOCK
    for (let i = 0; i < REFCOUNTS_PER_BLOCK && from + i < total; i++) {
      const c = from + i
      block.writeUInt16BE(c >= o.end ? 1 : o.refcount(c), i * 2)
    }
    await writeAll(file, block, (o.end + b) * CLUSTER)
    list.writeBigUInt64BE(BigInt(o.end + b) * BigInt(CLUSTER), b * 8)
  }
  await writeAll(file, list, (o.end + blocks) * CLUSTER)
  await file.datasync()
  const header = qcow2Header({
    virtual_size: o.virtual_size,
    l1_size: o.tables.l1_size,
    l1_cluster: o.tables.l1_cluster,
    refcount_table_cluster: o.end + blocks,
    refcount_table_clusters: table,
  })
  await writeAll(file, header, 0)
  await file.sync()
}

async function writeL1(file: FileHandle, t: TablePlaces): Promise<void> {
  const l1 = Buffer.alloc(Math.ceil((t.l1_size * 8) / CLUSTER) * CLUSTER)
  t.l2.forEach((cluster, i) => {
    if (cluster !== 0) putPlainEntry(l1, i, cluster * CLUSTER)
  })
  await writeAll(file, l1, t.l1_cluster * CLUSTER)
}

async function writeAll(file: FileHandle, bytes: Buffer, at: number): Promise<void> {
  let done = 0
  while (done < bytes.length) {
    const { bytesWritten } = await file.write(bytes, done, bytes.length - done, at + done)
    done += bytesWritten
  }
}
