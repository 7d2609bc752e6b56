import { ImageError, type ImageWindow, type SourceFormat } from '../images/index.ts'

/** A disk inside an OVA or next to an OVF. */
export interface FoundDisk {
  id: string
  format: SourceFormat
  window: ImageWindow
  /** bytes, as the OVF states */
  capacity?: number
  digest?: { algorithm: string; hex: string; name: string }
}

export async function expandArchive(
  w: ImageWindow,
  _kind: 'ova' | 'ovf',
  _id: string,
  _warnings: string[],
): Promise<FoundDisk[]> {
  throw new ImageError(`${w.label}: archives are not read yet.`, { code: 'unsupported' })
}
